"""The control tables: what this program stores in the databases."""
