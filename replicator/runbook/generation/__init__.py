"""Writes the DDL of new tables that are copies of old ones, for the author to read and edit."""

from replicator.runbook.generation.files import File, write
from replicator.runbook.generation.generate import Generated, generate

__all__ = ["File", "Generated", "generate", "write"]
