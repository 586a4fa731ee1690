"""The same requests by an SQL transform, which is the text that the peers run."""

from pathlib import Path
from typing import Any, Final, cast

from replicator import Migration

migration: Final = Migration("bench", old="public", new="party", sql=Path(__file__).parents[1] / "sql", way_back=False)


def declare() -> bool:
    """Declare the transform; returns False where this version has no SQL transforms."""
    declared = cast("Any", getattr(migration, "sql_transform", None))
    if declared is None:
        return False
    if not migration.transforms:
        declared(source="requests", into="requests", sql="requests.sql", key="old.id::uuid")
    return True


AVAILABLE: Final = declare()
