"""Fills the gaps: copies every source in chunks while the stream is followed; resumes at the last chunk."""

from replicator.backfill.backfill import Backfill

__all__ = ["Backfill"]
