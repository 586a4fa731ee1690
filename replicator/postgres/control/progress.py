"""What a pipeline stores on its target, in the same transactions as the rows: progress and chunks."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from replicator.core.epochs import LeaseEpoch
from replicator.core.lsn import LSN, DurableLSN, format_lsn, parse_lsn
from replicator.core.tables import Key
from replicator.migration import Direction
from replicator.postgres.session.committing import commit
from replicator.postgres.session.connect import Connection, translated
from replicator.runtime.failpoints import Failpoint, reach


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a pipeline has come, bound to its slot."""

    slot: str
    plugin: str
    system_id: str
    created: LSN
    applied: LSN
    timeline: int = 1
    start_marker: str | None = None
    unseen: frozenset[int] = frozenset()
    """Transactions that the stream had delivered and no snapshot contained yet."""
    reconciled: bool = True
    """False after a rollback, until the target's rows are what the transforms give again."""
    stored_ago: float | None = None
    """How many seconds ago it was stored, when it was read."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A bounded piece of one source: ``lower < key <= upper``."""

    source: str
    ordinal: int
    lower: Key | None
    upper: Key | None


@dataclass(frozen=True, kw_only=True)
class SourceProgress:
    """How far the backfill of one source has come."""

    source: str
    expected: int
    rows: int
    planned: bool
    chunks: int
    chunks_done: int

    @property
    def done(self) -> bool:
        """All chunks are planned, and written."""
        return self.planned and self.chunks == self.chunks_done


async def read_progress(connection: Connection, pipeline: Direction) -> Progress | None:
    """The stored progress; None before the slot exists."""
    with translated():
        cursor = await connection.execute(
            "SELECT slot, plugin, system_id, timeline, created_lsn::text, applied_lsn::text, start_marker, unseen, "
            "reconciled, extract(epoch FROM clock_timestamp() - applied_at)::float8 "
            "FROM _replicator.progress WHERE pipeline = %s",
            (pipeline,),
        )
        row = await cursor.fetchone()
    if row is None:
        return None
    slot, plugin, system_id, timeline, created, applied, marker, unseen, reconciled, stored_ago = row
    return Progress(
        slot=slot,
        plugin=plugin,
        system_id=system_id,
        timeline=timeline,
        created=parse_lsn(created),
        applied=parse_lsn(applied),
        start_marker=marker,
        unseen=frozenset(unseen),
        reconciled=reconciled,
        stored_ago=stored_ago,
    )


async def create_progress(connection: Connection, pipeline: Direction, progress: Progress) -> None:
    """Store a new slot's progress, and forget what an earlier slot of this pipeline has left."""
    with translated():
        async with connection.transaction():
            await drop_progress(connection, pipeline, keep_discarded=True)
            await connection.execute(
                "INSERT INTO _replicator.progress "
                "(pipeline, slot, plugin, system_id, timeline, created_lsn, applied_lsn, start_marker, reconciled) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    pipeline,
                    progress.slot,
                    progress.plugin,
                    progress.system_id,
                    progress.timeline,
                    format_lsn(progress.created),
                    format_lsn(progress.applied),
                    progress.start_marker,
                    progress.reconciled,
                ),
            )


async def drop_progress(connection: Connection, pipeline: Direction, *, keep_discarded: bool = False) -> None:
    """Forget a pipeline's progress, definitions, chunks, memory and quarantine.

    :param keep_discarded: what was discarded from quarantine stays: for whoever asks why the sides differ.
    """
    with translated():
        for table in ("progress", "definitions", "sources", "chunks", "produced", "given"):
            await connection.execute(f"DELETE FROM _replicator.{table} WHERE pipeline = %s".encode(), (pipeline,))
        await connection.execute(
            "DELETE FROM _replicator.quarantine WHERE pipeline = %s AND NOT (%s AND discarded_at IS NOT NULL)",
            (pipeline, keep_discarded),
        )


async def write_applied(
    connection: Connection, pipeline: Direction, applied: LSN, *, unseen: Iterable[int], started: bool = False
) -> None:
    """Store the applied position.

    :param unseen: what the stream has delivered and no snapshot contains yet: the next daemon's reads must see it too.
    :param started: the start marker has been passed.
    """
    with translated():
        await connection.execute(
            "UPDATE _replicator.progress SET applied_lsn = %s, applied_at = clock_timestamp(), unseen = %s::bigint[], "
            "start_marker = CASE WHEN %s THEN NULL ELSE start_marker END WHERE pipeline = %s",
            # A marker that has come by does not come again: the next daemon would wait for it for ever.
            # mutation: start-reached
            (format_lsn(applied), sorted(unseen), started, pipeline),
        )


async def commit_through(
    connection: Connection, pipeline: Direction, end: LSN, *, unseen: Iterable[int], started: bool = False
) -> DurableLSN:
    """Store the applied position with the rows of the caller's transaction, and commit it.

    :param end: all changes up to there are written; ``unseen`` and ``started`` are those of ``write_applied``.
    :return: the position, which may be confirmed to the slot now.
    :raises ConnectionLostError: the reply was lost: it may have been committed.
    """
    # In the rows' transaction: after a crash, the rows would be applied twice. guard: PROGRESS_WITH_ROWS
    await write_applied(connection, pipeline, end, unseen=unseen, started=started)
    await reach(Failpoint.BATCH_COMMITTING)
    await commit(connection)
    return DurableLSN(end)


async def write_reconciled(connection: Connection, pipeline: Direction, *, reconciled: bool = True) -> None:
    """Store that a rollback's target is what the transforms give again, or that it may hold more than that."""
    with translated():
        await connection.execute(
            "UPDATE _replicator.progress SET reconciled = %s WHERE pipeline = %s", (reconciled, pipeline)
        )


async def fence(connection: Connection, epoch: LeaseEpoch) -> None:
    """Begin a write: hold the fence until the transaction ends. Raises LeaseError when the lease has passed on."""
    with translated():
        await connection.execute("SELECT _replicator.enter(%s)", (epoch,))


# ---- the backfill's chunks


async def add_source(connection: Connection, pipeline: Direction, source: str, expected: int) -> None:
    """Note a source to be copied, and about how many rows it has."""
    with translated():
        await connection.execute(
            "INSERT INTO _replicator.sources (pipeline, source, expected_rows) VALUES (%s, %s, %s) "
            "ON CONFLICT DO NOTHING",
            (pipeline, source, expected),
        )


async def add_chunk(connection: Connection, pipeline: Direction, chunk: Chunk, *, last: bool) -> None:
    """Store a planned chunk; ``last`` ends the planning of its source."""
    with translated():
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO _replicator.chunks (pipeline, source, ordinal, lower_key, upper_key) "
                "VALUES (%s, %s, %s, %s, %s)",
                (pipeline, chunk.source, chunk.ordinal, _json(chunk.lower), _json(chunk.upper)),
            )
            if last:
                await connection.execute(
                    "UPDATE _replicator.sources SET planned = true WHERE pipeline = %s AND source = %s",
                    (pipeline, chunk.source),
                )


async def chunks_to_do(connection: Connection, pipeline: Direction, source: str) -> list[Chunk]:
    """The planned chunks of a source that are not written yet."""
    with translated():
        cursor = await connection.execute(
            "SELECT ordinal, lower_key, upper_key FROM _replicator.chunks "
            "WHERE pipeline = %s AND source = %s AND done_at IS NULL ORDER BY ordinal",
            (pipeline, source),
        )
        return [_chunk(source, *row) for row in await cursor.fetchall()]


async def last_chunk(connection: Connection, pipeline: Direction, source: str) -> Chunk | None:
    """The chunk that was planned last."""
    with translated():
        cursor = await connection.execute(
            "SELECT ordinal, lower_key, upper_key FROM _replicator.chunks "
            "WHERE pipeline = %s AND source = %s ORDER BY ordinal DESC LIMIT 1",
            (pipeline, source),
        )
        row = await cursor.fetchone()
        return _chunk(source, *row) if row else None


async def finish_chunk(connection: Connection, pipeline: Direction, chunk: Chunk, read_at: LSN, rows: int) -> None:
    """Mark a chunk as written, in the transaction that writes it."""
    with translated():
        await connection.execute(
            "UPDATE _replicator.chunks SET done_at = clock_timestamp(), read_lsn = greatest(read_lsn, %s::pg_lsn), "
            "row_count = coalesce(row_count, 0) + %s WHERE pipeline = %s AND source = %s AND ordinal = %s",
            (format_lsn(read_at), rows, pipeline, chunk.source, chunk.ordinal),
        )


async def advance_chunk(
    connection: Connection, pipeline: Direction, chunk: Chunk, read_at: LSN, rows: int, lower: Key
) -> None:
    """Store that a chunk is written up to a key, in the transaction that writes it: what is left begins there."""
    with translated():
        await connection.execute(
            "UPDATE _replicator.chunks SET lower_key = %s, read_lsn = greatest(read_lsn, %s::pg_lsn), "
            "row_count = coalesce(row_count, 0) + %s WHERE pipeline = %s AND source = %s AND ordinal = %s",
            (_json(lower), format_lsn(read_at), rows, pipeline, chunk.source, chunk.ordinal),
        )


async def backfill_progress(connection: Connection, pipeline: Direction) -> list[SourceProgress]:
    """How far each source is."""
    with translated():
        cursor = await connection.execute(
            "SELECT s.source, s.expected_rows, s.planned, count(c.ordinal), count(c.done_at), "
            "coalesce(sum(c.row_count), 0)::bigint "
            "FROM _replicator.sources s LEFT JOIN _replicator.chunks c USING (pipeline, source) "
            "WHERE s.pipeline = %s GROUP BY s.source, s.expected_rows, s.planned ORDER BY s.source",
            (pipeline,),
        )
        return [
            SourceProgress(
                source=source, expected=expected, planned=planned, chunks=chunks, chunks_done=done, rows=rows
            )
            for source, expected, planned, chunks, done, rows in await cursor.fetchall()
        ]


async def consistent_point(connection: Connection, pipeline: Direction) -> LSN | None:
    """The position at which the last chunk was read; None while chunks are still to do."""
    if not all(each.done for each in await backfill_progress(connection, pipeline)):
        return None
    with translated():
        cursor = await connection.execute(
            # The last read: before the stream has come there, copied rows may be newer than their neighbours (I1).
            # mutation: consistent-point
            "SELECT coalesce(max(read_lsn), '0/0')::text FROM _replicator.chunks WHERE pipeline = %s",
            (pipeline,),
        )
        row = await cursor.fetchone()
        return parse_lsn(row[0]) if row else None


def _json(key: Key | None) -> str | None:
    return None if key is None else json.dumps(key)


def _chunk(source: str, ordinal: int, lower: list[str] | None, upper: list[str] | None) -> Chunk:
    return Chunk(
        source=source,
        ordinal=ordinal,
        lower=None if lower is None else tuple(lower),
        upper=None if upper is None else tuple(upper),
    )
