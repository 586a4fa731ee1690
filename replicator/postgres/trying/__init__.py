"""SQL that is tried in transactions which are always rolled back."""
