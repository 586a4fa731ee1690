"""For whom a move waits: each of its attempts is too short to be seen waiting."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from replicator.errors import RetryableError
from replicator.postgres.locking.blockers import Blocker
from replicator.postgres.locking.locks import LockedOutError


class HeldUp:
    """Since when a move's attempts have been given up, and who was in the way of the last one."""

    def __init__(self) -> None:
        self.move = ""
        self._blockers: list[Blocker] = []
        self._since = 0.0

    @contextmanager
    def during(self, move: str) -> Iterator[None]:
        """A move is under way in the block."""
        self.move, self._blockers, self._since = move, [], monotonic()
        try:
            yield
        finally:
            self._blockers = []

    def note(self, error: RetryableError) -> None:
        """An attempt is given up."""
        if isinstance(error, LockedOutError):
            self._blockers = error.blockers

    @property
    def seconds(self) -> float:
        """How long the move has been under way."""
        return monotonic() - self._since

    @property
    def in_the_way(self) -> list[str]:
        """Each that the move waits for, in words; none while it waits for nobody."""
        return [str(each) for each in self._blockers]
