"""Copies chunks whose transforms are all in SQL by one statement each, where both schemas are in one database.

The read is part of the write, so it comes after the look at what the stream has touched, under the same exclusion (I3).
"""

import asyncio

from replicator.core.dirty_keys import Window
from replicator.core.selects import Select
from replicator.errors import RowError
from replicator.mapping.plan import Source
from replicator.postgres.control.progress import Chunk, fence, finish_chunk
from replicator.postgres.rows.chunk_insert import bytes_a_row, count_rows, insert_range, insertable, together
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.wire.snapshots import inserted_position, look
from replicator.runtime.failpoints import Failpoint, reach

MOST_BYTES = 32 << 20
"""Of rows in one statement, as far as it is known: the applier waits for its end."""


class WholeChunks:
    """One worker's; it takes no chunk while both schemas take writes, or the other side owns the data."""

    def __init__(self, context: Context, reader: Connection, writer: Connection) -> None:
        self._context = context
        self._reader = reader
        self._writer = writer
        self._together: bool | None = None
        self._narrow: dict[str, bool] = {}

    async def copy(self, chunk: Chunk, window: Window) -> int | None:
        """Copy a chunk; gives how many source rows it had. None: it is to be copied row by row, for nothing was done.

        :param window: opened before; it stays open.
        :raises WindowSpoiled: it is to be begun anew.
        """
        source = self._context.plan.sources[chunk.source]
        if not await self._takes(source):
            return None
        # Before the read, which comes with the write: what the stream has delivered, and perhaps deleted, must be seen
        # by it, or it would be written again (I4). What is delivered from here on is touched, or applied afterwards.
        while True:
            await look(self._writer, self._context.visibility)
            if not self._context.visibility:
                break
            await asyncio.sleep(0.002)
        await reach(Failpoint.CHUNK_READ)
        async with self._context.rw_lock.read(chunk.source):
            # The stream may have deleted a row that the statement still sees: it would come back (I3).
            touched = self._context.dirty_keys.touched(chunk.source, window)
            if touched.everything:
                return None
            return await self._write(chunk, source, touched.keys())

    async def _takes(self, source: Source) -> bool:
        if self._context.shadow or self._context.policy.both_write or not insertable(source):
            return False
        if self._together is None:
            self._together = await together(self._reader, self._writer)
        if not self._together or source.table is None:
            return False
        if source.name not in self._narrow:
            size = await bytes_a_row(self._writer, source.table)
            self._narrow[source.name] = size * self._context.chunk_rows <= MOST_BYTES
        return self._narrow[source.name] and await self._gives_always(source)

    async def _gives_always(self, source: Source) -> bool:
        """Whether no other rows of the targets are given more columns: of those, a row would need the defaults."""
        for each in source.transforms:
            gives = each.function.gives if isinstance(each.function, Select) else ()
            if await self._context.given.learn(each.target, gives) - {*gives, *each.target.key}:
                return False
        return True

    async def _write(self, chunk: Chunk, source: Source, touched: list[tuple[str, ...]]) -> int | None:
        connection = self._writer
        places = {table.name: place for place, table in enumerate(self._context.plan.targets)}
        with translated():
            try:
                async with connection.transaction():
                    await fence(connection, self._context.lease_epoch)
                    await connection.execute("SET CONSTRAINTS ALL DEFERRED")
                    for each in sorted(source.transforms, key=lambda one: places[one.target.name]):
                        if not await insert_range(connection, each, source, chunk.lower, chunk.upper, touched):
                            raise _LookAtRowsError
                    with refusing():
                        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                    rows = await count_rows(connection, source, chunk.lower, chunk.upper)
                    # After the statements: no transaction that they saw is beyond it.
                    read_at = await inserted_position(connection)
                    await finish_chunk(connection, self._context.direction, chunk, read_at, rows)
                    await reach(Failpoint.CHUNK_WRITTEN)
            except (_LookAtRowsError, RowError):  # row by row, it is found which one, and quarantined
                return None
        await reach(Failpoint.CHUNK_COMMITTED)
        return rows


class _LookAtRowsError(Exception):
    """Some row of the chunk needs to be looked at by itself."""
