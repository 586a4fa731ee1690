"""Copies one chunk: read under a window, derive, then write what the stream has not touched since (invariant I3).

A chunk of wide rows is read and written in parts of bounded size, under one window and from one snapshot. What is
written of it is stored in the transaction that writes it: the chunk begins behind that from then on.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from replicator.backfill.whole_chunks import WholeChunks
from replicator.core.dirty_keys import Touched, Window, WindowSpoiled
from replicator.core.lsn import LSN
from replicator.core.tables import Key, Name, Row, Table, fingerprint
from replicator.errors import RowError, TransformError
from replicator.mapping.derive import TargetRow
from replicator.mapping.plan import Source
from replicator.postgres.control.key_map import remember
from replicator.postgres.control.progress import Chunk, advance_chunk, fence, finish_chunk
from replicator.postgres.control.quarantine import Failure, Place, halted
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.derived import derive_all
from replicator.postgres.rows.groups import range_groups
from replicator.postgres.rows.halving import Halving
from replicator.postgres.rows.rearranging import without_rows
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import connect, translated
from replicator.postgres.wire.snapshots import read_point
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.log import get_logger

log = get_logger("backfill")

Derived = dict[tuple[Name, Key], TargetRow]


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
        self._whole = WholeChunks(self.context, self._reader, self._connection)

    async def close(self) -> None:
        """Give the connections back."""
        for connection in (getattr(self, "_reader", None), getattr(self, "_connection", None)):
            if connection is not None:
                await connection.close()

    async def copy(self, chunk: Chunk) -> int:
        """Copy one chunk; gives how many source rows it had."""
        copied = 0
        while True:
            try:
                # Before the read: what the stream deletes between the two would be written again. guard: WINDOW_FIRST
                with self.context.dirty_keys.window() as window:
                    if (rows_of_chunk := await self._whole.copy(chunk, window)) is not None:
                        return copied + rows_of_chunk
                    async with aclosing(self._parts(chunk)) as parts:
                        async for read_at, rows, last in parts:
                            await self._copy_part(chunk, window, read_at, rows, last=last)
                            copied += len(rows)
                            if not last:
                                chunk = replace(chunk, lower=rows[-1][0])
                return copied
            except WindowSpoiled:
                log.info("chunk read again: the stream was faster", source=chunk.source, chunk=chunk.ordinal)

    async def _parts(self, chunk: Chunk) -> AsyncGenerator[tuple[LSN, list[tuple[Key, Row]], bool]]:
        """The chunk's rows in parts, with the position they were read at, and whether a part is the last.

        The transaction that reads has ended when the last part is given: mostly there is one, and it may have to wait.
        """
        source = self.context.plan.sources[chunk.source]
        async with (
            read_point(self._reader, self.context.visibility) as read_at,
            aclosing(range_groups(self._reader, source, chunk.lower, chunk.upper)) as groups,
        ):
            async for rows, _, last in groups:
                if last:
                    break
                if rows:
                    yield read_at, rows, False
        yield read_at, rows, True

    async def _copy_part(
        self, chunk: Chunk, window: Window, read_at: LSN, rows: list[tuple[Key, Row]], *, last: bool
    ) -> None:
        derived, failures, taken = await self._derive(self.context.plan.sources[chunk.source], rows)
        await reach(Failpoint.CHUNK_READ)
        # Until the commit: a batch applied in between would delete a row before the chunk inserts it. guard: EXCLUSION
        async with self.context.rw_lock.read(chunk.source):
            touched = self.context.dirty_keys.touched(chunk.source, window)
            await self._write(chunk, read_at, dict(rows), derived, failures, taken, touched, last=last)

    async def _derive(
        self, source: Source, rows: Sequence[tuple[Key, Row]]
    ) -> tuple[Derived, dict[Place, str], list[TargetRow]]:
        """The rows to write; the error of each transform and source key that gives none; rows that others give."""
        derived: Derived = {}
        failures: dict[Place, str] = {}
        taken: list[TargetRow] = []
        for transform in source.transforms:
            for key, given in (
                await derive_all(self._connection, transform, source, dict(rows), self.context.given)
            ).items():
                try:
                    if given.error is not None:
                        raise given.error
                    refuse_taken(given.rows, derived, transform.target.name)
                except TransformError as error:
                    failures[transform.name, key] = str(error)
                    taken += given.rows
                else:
                    derived.update({(transform.target.name, each.key): each for each in given.rows})
        return derived, failures, taken

    async def _write(
        self,
        chunk: Chunk,
        read_at: LSN,
        rows: dict[Key, Row],
        derived: Derived,
        failures: dict[Place, str],
        taken: list[TargetRow],
        touched: Touched,
        *,
        last: bool,
    ) -> None:
        """Under the exclusion: nothing of this pipeline is applied between the look at the touches and the commit."""
        # The stream may have deleted the row since the chunk was read: it would come back (I3).
        # guard: TOUCHES; mutation: touched-rows-dropped
        kept = {place: row for place, row in derived.items() if row.source_key not in touched}
        errors = {place: error for place, error in failures.items() if place[1] not in touched}
        with translated():
            async with self._connection.transaction():
                await fence(self._connection, self.context.lease_epoch)
                self._writer.transaction_begins()
                await self._connection.execute("SET CONSTRAINTS ALL DEFERRED")
                written, refused = await self._insert(kept)
                # What is taken, too: it is written once the other row lets go of the key.
                await self._remember([*written.values(), *(row for row in taken if row.source_key not in touched)])
                await self._quarantine(chunk.source, rows, errors | refused)
                # In the rows' transaction: a chunk marked as done whose rows were rolled back would never be copied.
                # guard: DONE_WITH_ROWS
                if last:
                    await finish_chunk(self._connection, self.context.direction, chunk, read_at, len(rows))
                else:
                    lower = next(reversed(rows))
                    await advance_chunk(self._connection, self.context.direction, chunk, read_at, len(rows), lower)
                await reach(Failpoint.CHUNK_WRITTEN)
        await reach(Failpoint.CHUNK_COMMITTED)

    async def _quarantine(self, source: str, rows: dict[Key, Row], errors: dict[Place, str]) -> None:
        """Raises RowError where ``halt_on_error`` is set."""
        found = self.context.quarantine.heeded(
            Failure(transform=transform, source=source, source_key=key, error=error, fingerprint=fingerprint(rows[key]))
            for (transform, key), error in errors.items()
        )
        if found and self.context.halt_on_error:
            raise halted(found[0])
        if found:
            log.warning("rows quarantined", source=source, rows=len(found))
            await self.context.quarantine.keep(self._connection, found)

    async def _insert(self, derived: Derived) -> tuple[Derived, dict[Place, str]]:
        """Insert what Postgres takes, of each source row all that a transform gives or nothing; gives what went in."""
        refused: dict[Place, str] = {}
        # In shadow nothing is written: the application owns this side. guard: SHADOW
        while not self.context.shadow:
            try:
                async with self._connection.transaction():
                    found = [each for table in self.context.plan.targets for each in await self._try(table, derived)]
                    refused.update({_owner(row): str(error) for row, error in found})
                    left = {place: row for place, row in derived.items() if _owner(row) not in refused}
                    if len(derived) - len(left) > len(found):
                        raise _InPartError
                    with refusing():
                        await self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                    return left, refused
            except _InPartError:
                derived = left
            except RowError:  # what waits for the end of the transaction is to be checked with each statement instead
                await self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        return derived, refused

    async def _try(self, table: Table, derived: Derived) -> list[tuple[TargetRow, RowError]]:
        """Insert all rows but those that Postgres refuses; gives these. DatabaseError when it is no row's fault."""
        rows = [row for (name, _), row in derived.items() if name == table.name]
        search: Halving[TargetRow] = Halving(
            self._connection, table, lambda part: self._writer.insert_absent(table, part)
        )
        if rows and not await search.whole(rows):
            async with self._connection.transaction():
                await without_rows(self._writer, table, tuple(rows[0].columns))
            await search.halves(rows)
        return search.refused

    async def _remember(self, derived: Sequence[TargetRow]) -> None:
        for transform in self.context.plan.transforms:
            if transform.remembers:
                pairs = [(row.source_key, row.key) for row in derived if row.transform == transform.name]
                await remember(self._connection, self.context.direction, transform.name, pairs)


class _InPartError(Exception):
    """Of what a source row gives, some rows went in and some did not: undo it, and leave all of them out."""


def _owner(row: TargetRow) -> Place:
    return row.transform, row.source_key


def refuse_taken(found: Sequence[TargetRow], derived: dict[tuple[Name, Key], TargetRow], target: Name) -> None:
    """Raise TransformError when a target key has been given before, naming both source rows."""
    own: dict[Key, TargetRow] = {}
    for row in found:
        other = own.get(row.key) or derived.get((target, row.key))
        if other is not None:
            raise TransformError(
                f"Two source rows produce the same row {list(row.key)} of {target}: {other.transform} for "
                f"{list(other.source_key)}, and {row.transform} for {list(row.source_key)}.",
                "Make the target key depend on both, or filter one of them out.",
            )
        own[row.key] = row
