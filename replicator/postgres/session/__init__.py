"""Connections with pinned settings, and the edge where psycopg's errors become ours."""
