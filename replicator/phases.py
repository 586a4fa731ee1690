"""The phases of a migration, which may follow which, and the two moves of ownership."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from replicator.errors import ReplicatorError
from replicator.migration import Direction
from replicator.postgres.control import Owner


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
    ROLLBACK = "rollback"
    """A rollback is under way, likewise. Set before the writers are held."""
    FINALIZED = "finalized"
    """The migration is over: nothing follows any more, the old tables may go. Set by ``finalize``; it is the last."""


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.BACKFILL}),
    Phase.BACKFILL: frozenset({Phase.BUILD}),
    Phase.BUILD: frozenset({Phase.FOLLOW}),
    Phase.FOLLOW: frozenset({Phase.CUTOVER}),
    Phase.CUTOVER: frozenset({Phase.FOLLOW, Phase.SOAK}),
    Phase.SOAK: frozenset({Phase.ROLLBACK, Phase.FINALIZED}),
    Phase.ROLLBACK: frozenset({Phase.SOAK, Phase.FOLLOW}),
    Phase.FINALIZED: frozenset(),
}


@dataclass(frozen=True, kw_only=True)
class Move:
    """Ownership passes from one schema to the other. There are two, and they are one procedure."""

    name: Literal["cutover", "rollback"]
    before: Phase
    during: Phase
    after: Phase
    direction: Direction
    """Of the pipeline that is active before; it is drained, and ends."""
    owner: Owner
    """Who owns the data after it."""

    @property
    def opposite(self) -> Direction:
        """The direction of the pipeline that is active after it."""
        return "reverse" if self.direction == "forward" else "forward"

    @property
    def loser(self) -> Owner:
        """Who owns the data before it."""
        return "old" if self.owner == "new" else "new"


CUTOVER = Move(
    name="cutover", before=Phase.FOLLOW, during=Phase.CUTOVER, after=Phase.SOAK, direction="forward", owner="new"
)
ROLLBACK = Move(
    name="rollback", before=Phase.SOAK, during=Phase.ROLLBACK, after=Phase.FOLLOW, direction="reverse", owner="old"
)
MOVES = {move.during: move for move in (CUTOVER, ROLLBACK)}


def check_transition(before: Phase, after: Phase) -> None:
    """Raise ReplicatorError when one phase may not follow the other."""
    if after not in TRANSITIONS[before]:
        raise ReplicatorError(f"The phase {after} cannot follow {before}.", "This is a bug: please report it.")
