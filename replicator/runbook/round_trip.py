"""What the way back would make of the old rows: reverse(forward(old)) beside old, as verification would see it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from replicator.core.selects import Select
from replicator.core.tables import Key, Name, Row, Table
from replicator.errors import RowError
from replicator.mapping.derive import TargetRow
from replicator.mapping.plan import Plan, PlannedTransform, Source
from replicator.migration import NO_WAY_BACK, Migration
from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.control.ownership import same_database
from replicator.postgres.rows.comparing import compare
from replicator.postgres.rows.derived import Derived, derive_all
from replicator.postgres.rows.given import GivenColumns
from replicator.postgres.rows.groups import KEYS_AT_ONCE
from replicator.postgres.rows.source import range_groups
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import Connection, connection, give_text, translated
from replicator.postgres.trying.binding import bound_plan
from replicator.postgres.trying.rehearsal import read_query
from replicator.postgres.trying.scratch import Scratch
from replicator.settings import Settings

MOST: Final = 20_000
"""Rows of each source that are brought back."""
EXAMPLES: Final = 5


@dataclass(kw_only=True)
class Returned:
    """What came of the rows of one old table. ``examples`` are keys of rows that are not what they were."""

    table: str
    rows: int = 0
    """That come back."""
    refused: int = 0
    """New rows at which a reverse transform fails."""
    added: int = 0
    """Rows that come back under a key that no old row has."""
    lost: int = 0
    """Old rows that are carried over, and do not come back under their key."""
    differing: dict[str, int] = field(default_factory=dict)
    """By column, how many rows come back with another value."""
    examples: list[Key] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """All rows come back as they were."""
        return not (self.refused or self.added or self.lost or self.differing)

    def example(self, key: Key) -> None:
        """Keep the first few."""
        if len(self.examples) < EXAMPLES and key not in self.examples:
            self.examples.append(key)


@dataclass(kw_only=True)
class WayBack:
    """All old tables that are written on the way back, and what was left out."""

    tables: list[Returned] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def bring_back(
    settings: Settings,
    migration: Migration,
    target: Connection,
    reader: Connection,
    scratch: Scratch,
    carried: Mapping[str, set[Key] | None],
) -> WayBack:
    """Run the reverse transforms on the copies of the new tables, and compare with the old tables.

    :param target: holds the copies; from now on it gives text.
    :param reader: its snapshot is the one that the copies were made from.
    :param carried: by old table, the keys that gave rows; None where these are too many to be kept.
    """
    found = WayBack()
    if not migration.of("reverse"):
        found.notes.append(f"{NO_WAY_BACK}.")
        return found
    plan = await plan_back(settings, migration, target)
    give_text(target)
    async with beside(settings, plan, reader) as writer:
        returning = {table.name: Returned(table=table.declared) for table in plan.targets}
        whole = True
        came: dict[str, set[Key]] = {table.declared: set() for table in plan.targets}
        for source in plan.sources.values():
            copied = await of_copies(source, scratch, target, migration, found.notes)
            if copied is None:
                whole = False
                continue
            whole = await _through(copied, target, writer, returning, came) and whole
    for each in returning.values():
        keys = carried.get(each.table)
        if whole and keys is not None:
            gone = keys - came[each.table]
            each.lost = len(gone)
            for key in sorted(gone)[:EXAMPLES]:
                each.example(key)
    found.tables = list(returning.values())
    return found


async def plan_back(settings: Settings, migration: Migration, target: Connection) -> Plan:
    """The way back, bound to the tables; ``target`` is in the transaction in which the new ones are."""
    async with connection(settings.source, "dry run catalogue") as source:
        tables = await read_tables(target, migration.new), await read_tables(source, migration.old)
        # What sql/new makes is seen in this transaction only: SQL transforms run in it, where they can.
        return await bound_plan(
            migration, "reverse", target, target if await same_database(source, target) else source, tables
        )


@asynccontextmanager
async def beside(settings: Settings, plan: Plan, reader: Connection) -> AsyncIterator[TargetWriter]:
    """What compares rows that come back with the old tables, as the reader's snapshot shows them; writes nothing."""
    async with connection(settings.source, "try back") as opened:
        with translated():
            cursor = await reader.execute("SELECT pg_export_snapshot()")
            (snapshot,) = await cursor.fetchone() or ("",)
            await opened.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await opened.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
        writer = TargetWriter(opened, plan.targets)
        with translated():
            for table in plan.targets:
                await writer.stage(table).create(opened)
        yield writer
        with translated():
            await opened.execute("ROLLBACK")


async def of_copies(
    source: Source, scratch: Scratch, target: Connection, migration: Migration, notes: list[str]
) -> Source | None:
    """The source as it reads the copies; None when it cannot, and a note says so."""
    copied = scratch.in_place(source)
    if copied is not None and source.query is not None:
        read = (await read_query(target, copied.query or "")).columns
        if any(name.schema == migration.new for name in read):
            copied = None
    if copied is None:
        notes.append(f"The way back through {source.name} was not tried: it reads more than the copies.")
    return copied


async def _through(
    source: Source,
    target: Connection,
    writer: TargetWriter,
    returning: Mapping[Name, Returned],
    came: dict[str, set[Key]],
) -> bool:
    """Through all transforms of a source; gives whether all of its rows were."""
    done, given = 0, GivenColumns("reverse", None)
    async for chunk in chunks(target, source, MOST):
        for transform in source.transforms:
            each = returning[transform.target.name]
            derived = await derive_back(writer, target, transform, source, chunk, given)
            rows = [row for one in derived.values() for row in one.rows]
            each.rows += len(rows)
            each.refused += sum(one.error is not None for one in derived.values())
            came[each.table] |= {row.key for row in rows}
            await _compare(writer, transform.target, rows, each)
        done += len(chunk)
    return done < MOST


async def derive_back(
    writer: TargetWriter,
    target: Connection,
    transform: PlannedTransform,
    source: Source,
    chunk: list[tuple[Key, Row]],
    given: GivenColumns,
) -> dict[Key, Derived]:
    """What a reverse transform gives for rows of the copies; ``target`` is not reading meanwhile (``chunks``)."""
    together = await same_database(writer.connection, target)
    rows: dict[Key, Row | None] = dict(chunk)
    return await derive_all(writer.connection, transform, source, rows, given, runs_on=target if together else None)


async def chunks(target: Connection, source: Source, limit: int | None) -> AsyncIterator[list[tuple[Key, Row]]]:
    """The rows of a source in key order, of which no more than ``limit`` are needed.

    Where SQL transforms read them, the connection is not busy while a chunk is worked on.
    """
    if not any(isinstance(each.function, Select) for each in source.transforms):
        async for chunk, _, _ in range_groups(target, source, None, None, limit):
            yield chunk
        return
    lower: Key | None = None
    done = 0
    while limit is None or done < limit:
        chunk = [row async for group, _, _ in range_groups(target, source, lower, None, KEYS_AT_ONCE) for row in group]
        yield chunk
        if len(chunk) < KEYS_AT_ONCE:
            return
        lower, done = chunk[-1][0], done + len(chunk)


async def _compare(writer: TargetWriter, table: Table, rows: list[TargetRow], each: Returned) -> None:
    try:
        with translated():
            async with writer.connection.transaction():
                mismatches = await compare(writer, table, rows)
    except RowError:
        each.refused += len(rows)
        return
    for mismatch in mismatches:
        each.example(mismatch.key)
        each.added += mismatch.kind == "missing"
        for column in mismatch.columns:
            each.differing[column] = each.differing.get(column, 0) + 1
