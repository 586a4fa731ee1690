"""Finds what Postgres refuses: what cannot be done with many rows at once is done with ever fewer."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from replicator.core.tables import Name, Table
from replicator.errors import DatabaseError, RowError
from replicator.postgres.rows.refusals import ROWS_OWN
from replicator.postgres.session.connect import Connection

T = TypeVar("T")

MANY = 100
"""When so many rows of a table are refused for the same reason, and none is written, the reason is none of theirs."""


class Refused:
    """Counts the rows of one table that are refused one by one."""

    def __init__(self, target: Name) -> None:
        self._target = target
        self._by_state: Counter[str] = Counter()
        self.some_went_in = False

    def count(self, error: RowError) -> None:
        """One more. Raises DatabaseError when it is no row's fault."""
        state = error.sqlstate
        if state is None or error.judged or state.startswith(ROWS_OWN):
            return
        self._by_state[state] += 1
        if self._by_state[state] >= MANY and not self.some_went_in:
            raise DatabaseError(
                f"Postgres refuses every row of {self._target}, which no row explains: {error.problem}",
                f"Mend what the triggers, constraints and defaults of {self._target} call, then start again: it goes "
                "on where it stopped.",
                state,
            )


class Halving(Generic[T]):
    """One piece of work on rows of one table, inside the caller's transaction."""

    def __init__(self, connection: Connection, table: Table, work: Callable[[Sequence[T]], Awaitable[object]]) -> None:
        self._connection = connection
        self._work = work
        self._counted = Refused(table.name)
        self.refused: list[tuple[T, RowError]] = []

    async def whole(self, rows: Sequence[T]) -> bool:
        """Do it with all of them; whether that could be done."""
        return await self._try(rows) is None

    async def halves(self, rows: Sequence[T]) -> None:
        """Do it with all but those that are refused, which are noted. Raises DatabaseError when no row explains it."""
        error = await self._try(rows) if rows else None
        if error is None:
            self._counted.some_went_in |= bool(rows)
        elif len(rows) == 1:
            self.refused.append((rows[0], error))
            self._counted.count(error)
        else:
            middle = len(rows) // 2
            await self.halves(rows[:middle])
            await self.halves(rows[middle:])

    async def _try(self, rows: Sequence[T]) -> RowError | None:
        try:
            async with self._connection.transaction():
                await self._work(rows)
        except RowError as error:
            return error
        return None
