"""One state of the search for what verification can miss, and what guards against that."""

from enum import Enum
from typing import Final, NamedTuple

BAD: Final = -1
"""What a target row holds that was written wrongly."""


class Guard(Enum):
    """What keeps it right; the value says what the engine would do without it."""

    WAITS = "what the stream touches is not compared again"
    KEEPING = "what the stream touches during the first pass is not compared again"
    DIFFERING_WAITS = "what differs in a pass is taken for a change on its way, and forgotten"
    LOOKED_AGAIN = "what differs at the first look diverges"
    READ_APPLIED = "a second look does not wait until the target has come as far as the read"
    WINDOW = "what the stream touches during a second look is judged all the same"
    LOOK_SPOILED = "a window in which too many keys were touched is taken for one in which none was"
    SPILLED = "of the touched keys that memory has no room for, the oldest are forgotten"
    SPILLED_AGAIN = "a key that waits on disk does not wait anew when it is touched again"
    SETTLED_WHERE_FOUND = "a key that was found in memory is settled on disk, where it has gone meanwhile"
    SETTLED_AS_TOUCHED = "a key is settled although it was touched again while it was compared"
    PASS_ANEW = "a new daemon builds on the pass of the one before"
    FINAL = "ownership moves without comparing what waits"
    FINAL_ON_DISK = "the last comparison leaves out what waits on disk"
    FINAL_HELD = "the writers go on during the last comparison"
    FINDINGS = "ownership moves whatever diverges"
    ONE_ROW = "of a batch in which one row is refused, that row alone is noted, and nothing is written"
    QUARANTINED_WITH_PROGRESS = "a refused row is noted after the progress, in a transaction of its own"
    QUARANTINE_SHUTS = "ownership moves whatever is in quarantine"
    RELEASED = "a row stays in quarantine although its next version is written"


class Look(NamedTuple):
    """What the verifier holds of a row."""

    at: str
    """chunk: read in a pass; glance: compared, and equal; differs; again: read with a window open."""
    key: int
    value: int = 0
    read_at: int = 0
    fresh: bool = True
    """The stream has not touched it meanwhile."""
    from_disk: bool = False
    touched: int = 0
    spoiled: bool = False
    """Of the window."""


class State(NamedTuple):
    """The source, what is stored on the target, and what the daemon has in memory."""

    faults: int
    crashes: int
    source: tuple[int, int] = (0, 0)
    log: tuple[int, ...] = ()
    """Which keys each transaction has changed."""
    target: tuple[int, int] = (0, 0)
    applied: int = 0
    quarantined: int = 0
    owed: int = 0
    """Refused, and not noted yet."""
    chunk: int = 0
    """The next one of the first pass."""
    memory: tuple[int, ...] = ()
    """The keys that wait, the longest first."""
    disk: tuple[int, ...] = ()
    """Those that have waited longer."""
    found: int = 0
    """What diverges, as far as is known."""
    look: Look | None = None
    locked: bool = False
    moved: bool = False
    alarm: bool = False
    """A row was said to diverge that does not."""

    @property
    def drained(self) -> bool:
        """Whether all that was written is applied."""
        return self.applied == len(self.log)
