"""The program: its commands, in the order in which the help lists them."""

from replicator.cli import prepare, operate, keep, records, show  # noqa: F401, I001  # each adds its commands; the order counts
from replicator.cli.base import app

__all__ = ["app"]
