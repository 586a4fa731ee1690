"""Locks on the application's tables, and who is in the way of them."""
