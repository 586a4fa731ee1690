"""A savepoint of the transaction on the target, together with what memory says at it: both go back at once."""

from collections import Counter
from dataclasses import dataclass, replace

from replicator.apply.deferred_deletes import DeferredDeletes
from replicator.apply.outcome import Outcome
from replicator.postgres.control.quarantine import Quarantine
from replicator.postgres.session.connect import Connection, translated


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What one transaction changes in memory while it is open."""

    quarantine: Quarantine
    outcome: Outcome
    postponed: DeferredDeletes


class Savepoint:
    """Of what is undone to it, nothing is left in memory either: a row that is not written is not held to be."""

    def __init__(self, name: str, connection: Connection, memory: Memory) -> None:
        self._name = name
        self._connection = connection
        self._memory = memory
        self._mark = memory.quarantine.mark(connection)
        self._outcome = replace(
            memory.outcome, written=Counter(memory.outcome.written), failures=list(memory.outcome.failures)
        )
        self._postponed = memory.postponed.copy()

    async def begin(self) -> None:
        """Set it, right after it was made."""
        await self._execute("SAVEPOINT")

    async def back(self) -> None:
        """Undo all since ``begin``. The savepoint stays."""
        await self._execute("ROLLBACK TO SAVEPOINT")
        self._memory.quarantine.undo(self._connection, self._mark)
        outcome = self._memory.outcome
        outcome.written, outcome.failures = Counter(self._outcome.written), list(self._outcome.failures)
        outcome.lost = self._outcome.lost
        self._memory.postponed.restore(self._postponed)

    async def release(self) -> None:
        """What was done since ``begin`` stands, as long as the transaction does."""
        await self._execute("RELEASE SAVEPOINT")

    async def _execute(self, command: str) -> None:
        with translated():
            await self._connection.execute(f"{command} {self._name}".encode())
