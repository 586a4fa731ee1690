"""What a transaction on the target has written in parts: so that it can be undone, and written again as one."""

from dataclasses import dataclass, field

from replicator.apply.batch import Batch
from replicator.errors import DatabaseError
from replicator.postgres.connect import Connection, translated
from replicator.postgres.quarantine import Place, Quarantine
from replicator.tables import Key

MOST_KEYS = 20_000
"""So many rows are read again at once; of a larger transaction, nothing is kept."""


@dataclass
class Parts:
    """The parts since ``begin``. Constraints that wait for the transaction's end may turn out to be violated by any."""

    connection: Connection
    quarantine: Quarantine
    dirty: dict[str, set[Key]] = field(default_factory=dict)
    dirty_all: set[str] = field(default_factory=set)
    standing: set[Place] = field(default_factory=set)
    discarded: dict[Place, str] = field(default_factory=dict)

    async def begin(self) -> None:
        """Note the state that ``undo`` goes back to."""
        self.standing, self.discarded = set(self.quarantine.standing), dict(self.quarantine.discarded)
        await self._execute("SAVEPOINT pieces")

    def note(self, batch: Batch) -> None:
        """This has been written, its reads done."""
        self.dirty_all |= batch.dirty_all
        for name, state in batch.tables.items():
            if state.truncated:
                self.dirty_all.add(name)
            self._add(name, set(state.rows))
        for name, rows in batch.rows.items():
            self._add(name, set(rows))

    def _add(self, name: str, keys: set[Key]) -> None:
        if sum(map(len, self.dirty.values())) <= MOST_KEYS:
            self.dirty.setdefault(name, set()).update(keys)

    async def undo(self) -> Batch:
        """Undo them; gives all of them as one batch. Raises DatabaseError when they were too many to know them all."""
        if sum(map(len, self.dirty.values())) > MOST_KEYS:
            raise DatabaseError(
                f"A transaction of more than {MOST_KEYS} rows violates a constraint that waits for its end; which row "
                "does so is not known.",
                "Drop the constraint, let the transaction be applied, mend the rows, and make the constraint again.",
            )
        await self._execute("ROLLBACK TO SAVEPOINT pieces")
        self.quarantine.standing, self.quarantine.discarded = self.standing, self.discarded
        return Batch(
            dirty={name: keys for name, keys in self.dirty.items() if name not in self.dirty_all},
            dirty_all=self.dirty_all,
        )

    async def _execute(self, statement: str) -> None:
        with translated():
            await self.connection.execute(statement.encode())
