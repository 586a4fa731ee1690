"""The new tables as they will be, in a transaction that is rolled back; and the old rows, in one snapshot."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from replicator.errors import DatabaseError, MigrationError, NotReadyError
from replicator.mapping.plan import Plan
from replicator.migration import Migration
from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.catalog.inspect import tables_with_rows
from replicator.postgres.control.control import daemon_alive
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.ddl.ddl import Part, part_statements
from replicator.postgres.ddl.statements import shortened
from replicator.postgres.session.connect import Connection, connection, translated
from replicator.postgres.trying.binding import bound_plan
from replicator.postgres.trying.rehearsal import try_as_run
from replicator.postgres.trying.scratch import locks_in
from replicator.settings import Settings

ALREADY_THERE = ("42P07", "42710")
"""duplicate_table, duplicate_object."""


@asynccontextmanager
async def snapshot(dsn: str) -> AsyncIterator[Connection]:
    """A read-only transaction on the source, with one snapshot for all; the connection returns text.

    Else what is written meanwhile would look like a child without its parent.
    """
    async with connection(dsn, "try read", text=True) as reader:
        with translated():
            await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield reader


async def rehearsed_plan(settings: Settings, migration: Migration, target: Connection, notes: list[str]) -> Plan:
    """Make what is missing of the new schema, and bind the migration to the tables, the way there.

    :param target: in a transaction that is rolled back.
    :param notes: is extended by what was left out.
    :raises MigrationError: a statement of sql/new is wrong, or the migration does not fit the tables.
    :raises NotReadyError: a cutover has renamed the tables.
    """
    if (await read_places(target)).moved:
        raise NotReadyError(
            "A cutover has renamed the tables: there is nothing left to try.", "See `replicator status`."
        )
    await _rehearse(migration, target, notes)
    async with connection(settings.source, "try catalogue") as source:
        tables = await read_tables(source, migration.old), await read_tables(target, migration.new)
        return await bound_plan(migration, "forward", source, target, tables)


async def _rehearse(migration: Migration, target: Connection, notes: list[str]) -> None:
    """Make what is not there yet of the new schema, in the transaction that is rolled back."""
    wanted = {each.into for each in migration.of("forward")}
    there = wanted & set(await read_tables(target, migration.new))
    if wanted - there:
        await _run(migration, "tables", target, notes)
    if await daemon_alive(target) or await tables_with_rows(target, migration.new, sorted(there)):
        notes.append("The new tables are in use: indexes and constraints that they lack yet were not tried.")
        return
    for part in ("indexes", "constraints"):
        await _run(migration, part, target, notes)


class _LocksError(Exception):
    """The statement would lock an old table for as long as the dry run takes."""


async def _run(migration: Migration, part: Part, target: Connection, notes: list[str]) -> None:
    for statement in part_statements(migration, part):
        shown = shortened(statement)
        try:
            async with target.transaction():
                error = await try_as_run(target, statement)
                if error is None and await locks_in(target, migration.old):
                    raise _LocksError
        except _LocksError:
            notes.append(f"Not tried, for it locks an old table: {shown}")
            continue
        if error is not None and not (isinstance(error, DatabaseError) and error.sqlstate in ALREADY_THERE):
            raise MigrationError(f"The statement {shown!r} in sql/new fails: {error.problem}", "Mend it.")
