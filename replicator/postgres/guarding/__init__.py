"""Who may write to the tables of either side."""
