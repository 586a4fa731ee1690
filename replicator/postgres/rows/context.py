"""What the parts of one pipeline share while it runs."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from replicator.core.dirty_keys import DirtyKeys
from replicator.core.epochs import LeaseEpoch
from replicator.core.rw_lock import ReadWriteLock
from replicator.mapping.plan import Plan
from replicator.migration import Direction
from replicator.postgres.control.quarantine import Place, Quarantine
from replicator.postgres.rows.conflict_policy import ConflictPolicy
from replicator.postgres.rows.given import GivenColumns
from replicator.postgres.wire.snapshots import Visibility


@dataclass(kw_only=True)
class Context:
    """One direction's plan and connections, and the notes that let reader, applier, backfill and verifier meet."""

    direction: Direction
    plan: Plan
    source_dsn: str
    target_dsn: str
    lease_epoch: LeaseEpoch
    """The lease's, on the target."""
    opposite: Plan | None = None
    """The other direction's, where the target holds rows that this one has not written."""
    shadow: bool = False
    """Keep the memory of produced keys, but write no row: the target is still owned by the opposite side."""
    halt_on_error: bool = False
    chunk_rows: int = 5_000
    batch_rows: int = 5_000
    workers: int = 2
    visibility: Visibility = field(default_factory=Visibility)
    dirty_keys: DirtyKeys = field(default_factory=DirtyKeys)
    rw_lock: ReadWriteLock = field(default_factory=ReadWriteLock)
    copying: bool = False
    """Chunks are being copied."""
    policy: ConflictPolicy = field(default_factory=ConflictPolicy)
    """Another one while both schemas take writes."""
    unseen: set[str] = field(default_factory=set)
    """Source tables whose rows may have changed past the log, and have not all been compared since."""
    breaches: int = 0
    """How often one has come to be in there, or would have if it was not."""
    quarantine: Quarantine = field(init=False)
    given: GivenColumns = field(init=False)

    def __post_init__(self) -> None:
        self.given = GivenColumns(self.direction, self.target_dsn)
        self.quarantine = Quarantine(self.direction)

    def suspect(self, tables: Iterable[str]) -> None:
        """Have all rows of these source tables, and what nothing gives of their targets', compared anew."""
        self.breaches += 1
        self.unseen |= set(tables)

    @property
    def quarantined(self) -> set[Place]:
        """The entries that stand: they keep ownership from moving."""
        return self.quarantine.standing
