"""One transaction on the target, as long as it is open: what has been written in it, and what is left for its end."""

from dataclasses import dataclass, field

from replicator.apply.conflicts import Mode
from replicator.apply.dates import Dates
from replicator.apply.deferred_deletes import DeferredDeletes
from replicator.apply.key_changes import KeyChanges
from replicator.apply.later import Again
from replicator.apply.outcome import Outcome
from replicator.apply.parts import Parts
from replicator.apply.undoing import Memory, Savepoint
from replicator.core.lsn import LSN, ZERO
from replicator.core.tables import Key
from replicator.mapping.plan import Plan
from replicator.postgres.control.quarantine import Failure, Quarantine
from replicator.postgres.session.connect import Connection


@dataclass(kw_only=True)
class Transaction:
    """Its state; another one begins with nothing."""

    postponed: DeferredDeletes
    halt: bool
    """A refused row ends it."""
    outcome: Outcome = field(default_factory=Outcome)
    parts: Parts | None = None
    hopeless: dict[tuple[str, Key], Failure] = field(default_factory=dict)
    """Refused whatever the order: left out until the transaction's end, when what was refused is tried again."""
    again: list[Again] = field(default_factory=list)
    read_to: LSN = ZERO
    """Its newest read."""
    dates: Dates = field(default_factory=Dates)
    moves: KeyChanges = field(default_factory=KeyChanges)
    mode: Mode = "following"

    async def savepoint(self, name: str, connection: Connection, quarantine: Quarantine) -> Savepoint:
        """Set one, to which memory goes back together with the rows."""
        memory = Memory(quarantine=quarantine, outcome=self.outcome, postponed=self.postponed)
        savepoint = Savepoint(name, connection, memory)
        await savepoint.begin()
        return savepoint

    async def in_parts(self, connection: Connection, quarantine: Quarantine, plan: Plan) -> None:
        """What is written from now on until its end is to hold only then."""
        if self.parts is None:
            self.parts = Parts(await self.savepoint("pieces", connection, quarantine), plan)
