"""Hostile bytes for what reads the stream: see README.md here."""
