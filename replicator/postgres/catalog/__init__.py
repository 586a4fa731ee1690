"""Reads the catalogue (Postgres documentation, chapter "System Catalogs")."""
