"""The program: its commands, in the order in which the help lists them."""

# ruff: noqa: F401, I001  # each module adds its commands when it is imported
from replicator.cli import prepare
from replicator.cli import explain_command
from replicator.cli import try_command
from replicator.cli import dry_run_command
from replicator.cli import operate
from replicator.cli import switchover_commands
from replicator.cli import smoke_command
from replicator.cli import ending_commands
from replicator.cli import keep
from replicator.cli import quarantine_commands
from replicator.cli import records
from replicator.cli import demo_command
from replicator.cli.base import app

__all__ = ["app"]
