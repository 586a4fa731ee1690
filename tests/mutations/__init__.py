"""Deliberate breakages of the engine: see README.md here."""
