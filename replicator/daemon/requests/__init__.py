"""What the daemon does when a command asks: a module for each kind of request, and the runner that takes them up."""

from replicator.daemon.requests.answers import Gates
from replicator.daemon.requests.runner import Commands

__all__ = ["Commands", "Gates"]
