"""Where the reference migration is: the folder that holds ``transforms/`` and ``sql/``."""

import contextlib
from pathlib import Path

from replicator.errors import ReplicatorError
from replicator.migration import Migration
from replicator.settings import load_migration

MARKS = ("transforms/party.py", "sql/old/10_tables.sql")
MIGRATION = "transforms:migration"


class HomeError(ReplicatorError):
    """The reference migration is not here."""

    kind = "demo"


def find_home() -> Path:
    """The clone that this package is part of, else the working directory."""
    for folder in (Path(__file__).parents[2], Path.cwd()):
        if all((folder / mark).is_file() for mark in MARKS):
            return folder
    raise HomeError(
        f"The demo's migration, transforms/ and sql/, is not in {Path.cwd()}.",
        "It is not part of the installed package: run the demo in a clone of the project.",
    )


def reference(home: Path) -> Migration:
    """The reference migration."""
    with contextlib.chdir(home):
        return load_migration(MIGRATION)
