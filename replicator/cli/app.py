"""The program: its commands, in the order in which the help lists them."""

# ruff: noqa: F401, I001  # each module adds its commands when it is imported
from replicator.cli import prepare
from replicator.cli import dry_run
from replicator.cli import operate
from replicator.cli import moving
from replicator.cli import smoke
from replicator.cli import finishing
from replicator.cli import keep
from replicator.cli import quarantine
from replicator.cli import records
from replicator.cli import show
from replicator.cli.base import app

__all__ = ["app"]
