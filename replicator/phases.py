"""The phases of a migration, and which may follow which."""

from enum import StrEnum

from replicator.errors import ReplicatorError
from replicator.migration import Direction


class Phase(StrEnum):
    """Every phase is stored in ``replicator.state``; the daemon alone sets it."""

    NEW = "new"
    """Nothing exists yet. Never stored: it is what the absence of a stored phase means."""
    BACKFILL = "backfill"
    """The slot and the new tables exist; chunks are copied while the stream is followed. Set at set-up."""
    BUILD = "build"
    """The consistent point is passed; indexes and constraints are built. Set when the last chunk is applied."""
    FOLLOW = "follow"
    """Both schemas hold the same truth; verification goes round. Set when the build is done."""
    CUTOVER = "cutover"
    """A cutover is under way; who owns the data is in ``replicator.ownership``. Set before the writers are held."""
    SOAK = "soak"
    """The new schema owns the data, the old one is kept in step. Set after the cutover's commit."""


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.BACKFILL}),
    Phase.BACKFILL: frozenset({Phase.BUILD}),
    Phase.BUILD: frozenset({Phase.FOLLOW}),
    Phase.FOLLOW: frozenset({Phase.CUTOVER}),
    Phase.CUTOVER: frozenset({Phase.FOLLOW, Phase.SOAK}),
    Phase.SOAK: frozenset(),
}

DIRECTIONS: dict[Phase, Direction] = {Phase.SOAK: "reverse"}
"""Which pipeline is active; forward where nothing is said."""


def check_transition(before: Phase, after: Phase) -> None:
    """Raise ReplicatorError when one phase may not follow the other."""
    if after not in TRANSITIONS[before]:
        raise ReplicatorError(f"The phase {after} cannot follow {before}.", "This is a bug: please report it.")
