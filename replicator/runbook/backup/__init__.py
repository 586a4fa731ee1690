"""Backups of the old schema's database, and archives of its tables: both proved before anybody relies on them."""

from replicator.runbook.backup.archive import Archive, make_archive
from replicator.runbook.backup.backup import Backup, back_up

__all__ = ["Archive", "Backup", "back_up", "make_archive"]
