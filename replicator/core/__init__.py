"""Plain data: positions, changes, tables, keys, locks. Only the standard library."""
