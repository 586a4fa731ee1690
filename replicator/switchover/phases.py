"""The phases of a migration, which may follow which, and the two moves of ownership."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from replicator.core.epochs import OwnershipEpoch
from replicator.errors import ReplicatorError
from replicator.migration import Direction
from replicator.postgres.control.control import Owner
from replicator.postgres.control.ownership import Ownership
from replicator.preflight.consequences import Consequences


class Phase(StrEnum):
    """Every phase is stored in ``_replicator.state``; the daemon alone sets it."""

    NEW = "new"
    """Nothing exists yet. Never stored: it is what the absence of a stored phase means."""
    BACKFILL = "backfill"
    """The slot and the new tables exist; chunks are copied while the stream is followed. Set at set-up."""
    BUILD = "build"
    """The consistent point is passed; indexes and constraints are built. Set when the last chunk is applied."""
    FOLLOW = "follow"
    """Both schemas hold the same truth; verification goes round. Set when the build is done."""
    CUTOVER = "cutover"
    """A cutover is under way; who owns the data is in ``_replicator.ownership``. Set before the writers are held."""
    ROLLING = "rolling"
    """Both schemas take writes, each follows the other. Set after the commit that opens the new one."""
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
    Phase.CUTOVER: frozenset({Phase.FOLLOW, Phase.ROLLING, Phase.SOAK}),
    Phase.ROLLING: frozenset({Phase.CUTOVER, Phase.ROLLBACK}),
    Phase.SOAK: frozenset({Phase.ROLLBACK, Phase.FINALIZED}),
    Phase.ROLLBACK: frozenset({Phase.SOAK, Phase.ROLLING, Phase.FOLLOW}),
    Phase.FINALIZED: frozenset(),
}


@dataclass(frozen=True, kw_only=True)
class Transition:
    """Writes move from one schema to the other. All moves are one procedure: the source's writers are held."""

    name: Literal["cutover", "rollback"]
    before: Phase
    during: Phase
    after: Phase
    direction: Direction
    """Of the pipeline that is active before; it is drained, and ends."""
    owner: Owner
    """Who owns the data after it."""
    opens_both: bool = False
    """After it both schemas take writes."""

    @property
    def from_both(self) -> bool:
        """Before it both schemas take writes."""
        return self.before is Phase.ROLLING

    @property
    def statements(self) -> Literal["cutover", "rollback"] | None:
        """The folder of the team's own statements that are due: those of a cutover, when the new schema alone owns.

        While both take writes they have not been run, so a rollback from there undoes nothing.
        """
        if self.opens_both or (self.from_both and self.owner == "old"):
            return None
        return "cutover" if self.owner == "new" else "rollback"

    def happened(self, now: Ownership) -> bool:
        """Whether the state row says so."""
        if self.opens_both:
            return now.rolling
        return not now.rolling if self.from_both else now.owner == self.owner

    @property
    def opposite(self) -> Direction:
        """The direction of the pipeline that is active after it."""
        return "reverse" if self.direction == "forward" else "forward"

    @property
    def opens(self) -> Owner:
        """The schema that takes writes after it and did not before, save for a move out of the time of both."""
        return "new" if self.opens_both else self.owner

    @property
    def held(self) -> Owner:
        """The schema whose writers are held; after it they are refused, unless it opens both."""
        return "old" if self.direction == "forward" else "new"


@dataclass(frozen=True, kw_only=True)
class CutoverResult:
    """What the cutover cost, or would have cost."""

    epoch: OwnershipEpoch
    attempts: int
    write_pause_seconds: float
    dry_run: bool = False
    dependents: tuple[str, ...] = ()
    """What goes on using the old tables."""
    consequences: Consequences | None = None
    """All that it would do, where it was rehearsed."""
    retyped: tuple[str, ...] = ()
    """Columns that prepared statements find of another type, in tables that have been renamed."""


CUTOVER = Transition(
    name="cutover", before=Phase.FOLLOW, during=Phase.CUTOVER, after=Phase.SOAK, direction="forward", owner="new"
)
ROLLBACK = Transition(
    name="rollback", before=Phase.SOAK, during=Phase.ROLLBACK, after=Phase.FOLLOW, direction="reverse", owner="old"
)
OPENING = Transition(
    name="cutover", before=Phase.FOLLOW, during=Phase.CUTOVER, after=Phase.ROLLING, direction="forward", owner="old",
    opens_both=True,
)  # fmt: skip
"""``cutover --rolling``."""
COMPLETION = Transition(
    name="cutover", before=Phase.ROLLING, during=Phase.CUTOVER, after=Phase.SOAK, direction="forward", owner="new"
)
"""``cutover --complete``."""
CLOSING = Transition(
    name="rollback", before=Phase.ROLLING, during=Phase.ROLLBACK, after=Phase.FOLLOW, direction="reverse", owner="old"
)
"""A rollback while both schemas take writes."""
MOVING = frozenset({Phase.CUTOVER, Phase.ROLLBACK})
"""The phases in which a move is under way."""


def check_transition(before: Phase, after: Phase) -> None:
    """Raise ReplicatorError when one phase may not follow the other."""
    if after not in TRANSITIONS[before]:
        raise ReplicatorError(f"The phase {after} cannot follow {before}.", "This is a bug: please report it.")
