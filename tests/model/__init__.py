"""The engine's interleavings as a small model, searched to the end: see README.md here."""
