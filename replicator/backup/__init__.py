"""Backups: a dump of the old schema's database that is proved by restoring it."""

from replicator.backup.backup import Backup, back_up

__all__ = ["Backup", "back_up"]
