"""Fills the gaps: copies every source in chunks while the stream is followed, and resumes at the last chunk (I3, I4)."""

from replicator.backfill.backfill import Backfill

__all__ = ["Backfill"]
