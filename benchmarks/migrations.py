"""Which migrations can be measured in this version."""

from typing import Final, Literal

from benchmarks.ground import Missing
from benchmarks.moving import sql

Kind = Literal["SQL", "Python"]
KINDS: Final[tuple[Kind, ...]] = ("SQL", "Python")


def migration_of(kind: Kind) -> str:
    """The setting that names the migration with transforms of this kind. Raises Missing."""
    if kind == "Python":
        return "benchmarks.moving.python:migration"
    if not sql.AVAILABLE:
        raise Missing("this version has no SQL transforms")
    return "benchmarks.moving.sql:migration"
