"""Applies the stream's changes to the targets: compact, derive, write, with progress in the same transaction."""
