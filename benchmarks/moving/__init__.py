"""The migrations that are measured."""
