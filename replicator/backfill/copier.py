"""Copies one chunk: read under a window, derive, then write what the stream has not touched since (invariant I3)."""

import asyncio
from collections.abc import Sequence

from replicator.derive import TargetRow, derive
from replicator.errors import RowError, TransformError
from replicator.failpoints import Failpoint, reach
from replicator.log import get_logger
from replicator.lsn import LSN
from replicator.plan import Source
from replicator.postgres.connect import connect, translated
from replicator.postgres.context import Context
from replicator.postgres.memory import Failure, quarantine, remember
from replicator.postgres.progress import Chunk, enter, finish_chunk
from replicator.postgres.snapshots import read_point
from replicator.postgres.source import read_range
from replicator.postgres.target import TargetWriter
from replicator.tables import Key, Name, Row, Table
from replicator.touches import Touched, WindowSpoiled

log = get_logger("backfill")

ROWS_BETWEEN_YIELDS = 500
"""So that a chunk's transforms do not keep the stream's reader from its work."""


class Copier:
    """One worker with its own connections."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def open(self) -> None:
        """Connect to both sides."""
        direction = self.context.direction
        self._reader = await connect(self.context.source_dsn, f"{direction} chunk read", text=True)
        self._connection = await connect(self.context.target_dsn, f"{direction} chunk write")
        self._writer = TargetWriter(self._connection, self.context.plan.targets)
        await self._writer.prepare()

    async def close(self) -> None:
        """Give the connections back."""
        for connection in (getattr(self, "_reader", None), getattr(self, "_connection", None)):
            if connection is not None:
                await connection.close()

    async def copy(self, chunk: Chunk) -> int:
        """Copy one chunk; gives how many source rows it had."""
        while True:
            try:
                with self.context.touches.window() as window:
                    read_at, rows = await self._read(chunk)
                    derived, failures = await self._derive(self.context.plan.sources[chunk.source], rows)
                    await reach(Failpoint.CHUNK_READ)
                    async with self.context.exclusion.shared():
                        touched = self.context.touches.touched(chunk.source, window)
                        await self._write(chunk, read_at, len(rows), derived, failures, touched)
                    return len(rows)
            except WindowSpoiled:
                log.info("chunk read again: the stream was faster", source=chunk.source, chunk=chunk.ordinal)

    async def _read(self, chunk: Chunk) -> tuple[LSN, list[tuple[Key, Row]]]:
        async with read_point(self._reader, self.context.visibility) as read_at:
            return read_at, await read_range(
                self._reader, self.context.plan.sources[chunk.source], chunk.lower, chunk.upper
            )

    async def _derive(
        self, source: Source, rows: Sequence[tuple[Key, Row]]
    ) -> tuple[dict[tuple[Name, Key], TargetRow], list[Failure]]:
        derived: dict[tuple[Name, Key], TargetRow] = {}
        failures: list[Failure] = []
        for number, (key, row) in enumerate(rows):
            if number % ROWS_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)
            for transform in source.transforms:
                try:
                    found = derive(transform, source, key, row)
                    refuse_taken(found, derived, transform.target.name)
                except TransformError as error:
                    failures.append(
                        Failure(transform=transform.name, source=source.name, source_key=key, error=str(error))
                    )
                else:
                    derived.update({(transform.target.name, each.key): each for each in found})
        return derived, failures

    async def _write(
        self,
        chunk: Chunk,
        read_at: LSN,
        rows: int,
        derived: dict[tuple[Name, Key], TargetRow],
        failures: list[Failure],
        touched: Touched,
    ) -> None:
        """Under the exclusion: nothing of this pipeline is applied between the look at the touches and the commit."""
        kept = {place: row for place, row in derived.items() if row.source_key not in touched}
        failures = [each for each in failures if each.source_key not in touched]
        if failures and self.context.halt_on_error:
            raise RowError(failures[0].error, "REPLICATOR_ON_ERROR is halt: mend it and start again.")
        with translated():
            async with self._connection.transaction():
                await enter(self._connection, self.context.epoch)
                self._writer.transaction_begins()
                await self._connection.execute("SET CONSTRAINTS ALL DEFERRED")
                failures += await self._insert(kept, chunk.source)
                await self._remember(kept, {(each.transform, each.source_key) for each in failures})
                await quarantine(self._connection, self.context.direction, failures)
                await finish_chunk(self._connection, self.context.direction, chunk, read_at, rows)
                await reach(Failpoint.CHUNK_WRITTEN)
        await reach(Failpoint.CHUNK_COMMITTED)
        self.context.quarantined.update((each.transform, each.source_key) for each in failures)
        if failures:
            log.warning("rows quarantined", source=chunk.source, rows=len(failures))

    async def _insert(self, derived: dict[tuple[Name, Key], TargetRow], source: str) -> list[Failure]:
        failures: list[Failure] = []
        if self.context.shadow:
            return failures
        for table in self.context.plan.targets:
            rows = [row for (name, _), row in derived.items() if name == table.name]
            refused = await self._insert_halving(table, rows)
            if refused and self.context.halt_on_error:
                raise refused[0][1]
            failures += [
                Failure(transform=row.transform, source=source, source_key=row.source_key, error=str(error))
                for row, error in refused
            ]
        return failures

    async def _insert_halving(self, table: Table, rows: list[TargetRow]) -> list[tuple[TargetRow, RowError]]:
        """Insert all rows but those that Postgres refuses; gives these."""
        if not rows:
            return []
        try:
            async with self._connection.transaction():
                self._writer.transaction_begins()
                await self._writer.insert_absent(table, rows)
        except RowError as error:
            if len(rows) == 1:
                return [(rows[0], error)]
            middle = len(rows) // 2
            return await self._insert_halving(table, rows[:middle]) + await self._insert_halving(table, rows[middle:])
        return []

    async def _remember(self, derived: dict[tuple[Name, Key], TargetRow], failed: set[tuple[str, Key]]) -> None:
        for transform in self.context.plan.transforms:
            if transform.remembers:
                pairs = [
                    (row.source_key, row.key)
                    for row in derived.values()
                    if row.transform == transform.name and (row.transform, row.source_key) not in failed
                ]
                await remember(self._connection, self.context.direction, transform.name, pairs)


def refuse_taken(found: Sequence[TargetRow], derived: dict[tuple[Name, Key], TargetRow], target: Name) -> None:
    """Raise TransformError when a target key has been given before, naming both source rows."""
    own: dict[Key, TargetRow] = {}
    for row in found:
        other = own.get(row.key) or derived.get((target, row.key))
        if other is not None:
            raise TransformError(
                f"Two source rows give the same row {list(row.key)} of {target}: {other.transform} for "
                f"{list(other.source_key)}, and {row.transform} for {list(row.source_key)}.",
                "Make the target key depend on both, or filter one of them out.",
            )
        own[row.key] = row
