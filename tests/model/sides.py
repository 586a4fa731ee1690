"""The two sides of a move of ownership, and what is stored, locked and under way on them: one state of the search."""

from collections.abc import Iterator
from enum import StrEnum, auto
from typing import Final, NamedTuple, TypeVar

from tests.model.following import GONE, Pipe
from tests.model.search import Step

V = TypeVar("V")


class At(StrEnum):
    """Where the daemon is."""

    FOLLOWING = auto()
    PREPARED = auto()
    FILLED = auto()
    LOCKED = auto()
    DRAINED = auto()
    FROZEN = auto()
    READY = auto()
    LOOKED = auto()
    MOVED = auto()
    SENT = auto()
    LOST = auto()
    COMMITTED = auto()
    DOWN = auto()


ATTEMPT: Final = (At.LOCKED, At.DRAINED, At.FROZEN, At.READY, At.LOOKED, At.MOVED)
"""What may be given up and tried again."""


class Server(StrEnum):
    """Where the server is with the cutover's transaction."""

    NONE = auto()
    OPEN = auto()
    WRITTEN = auto()
    COMMITTING = auto()


class State(NamedTuple):
    """Both databases, the application, and the daemon."""

    crashes: int
    owner: int = 0
    epoch: int = 0
    values: tuple[int, int] = (GONE, GONE)
    guards: tuple[bool, bool] = (False, True)
    """Who is refused."""
    resting: tuple[bool, bool] = (False, True)
    """Where the application's triggers do not fire."""
    miscounted: tuple[bool, bool] = (False, False)
    """Where they have fired for a write of the daemon's, or not for one of the application's."""
    lapses: int = 0
    """How often somebody may switch guards and triggers on the closed side."""
    lapsed: bool = False
    """He has, and the daemon has not seen it."""
    closing: bool = False
    """The daemon has closed it again, and that is not noted yet."""
    suspect: bool = False
    """All rows are to be compared, for somebody may have written to the closed side."""
    logs: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """What was written, and markers as negative epochs."""
    pipes: tuple[Pipe | None, Pipe | None] = (Pipe(0), None)
    """By the side that they read."""
    moving: bool = False
    """The stored phase: a move of ownership is under way."""
    written: int = 0
    """How often the application has written."""
    acknowledged: int = GONE
    """What it wrote last."""
    writing: int | None = None
    """Where it has a transaction open."""
    locked: int | None = None
    server: Server = Server.NONE
    at: At = At.FOLLOWING
    side: int = 0
    """From where ownership moves, while it moves."""
    still: bool = False
    opened: bool = True
    """The owner's tables have been opened."""
    marked: bool = True
    """The start marker has been sent."""

    @property
    def shadowed(self) -> bool:
        """The active stream has not reached its start marker yet."""
        pipe = self.pipes[self.owner]
        return pipe is None or bool(pipe.waits_for)

    def drained(self, side: int) -> bool:
        """Whether the stream from a side has come to the end of its log."""
        pipe = self.pipes[side]
        return pipe is not None and pipe.position == len(self.logs[side])

    def logged(self, side: int, entry: int) -> "State":
        """With one more entry in a side's log."""
        return self._replace(logs=put(self.logs, side, (*self.logs[side], entry)))


Moves = Iterator[tuple[Step, State]]


def put(pair: tuple[V, V], side: int, value: V) -> tuple[V, V]:
    """A pair with the value of one side replaced."""
    return (value, pair[1]) if side == 0 else (pair[0], value)
