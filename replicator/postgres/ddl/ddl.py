"""Runs the migration's DDL, statement by statement, each of them idempotent."""

import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from psycopg import sql

from replicator.core.tables import Name
from replicator.errors import MigrationError, ReplicatorError, RetryableError, RowError
from replicator.migration import Migration
from replicator.postgres.ddl.authored import refused
from replicator.postgres.ddl.statements import shortened, split
from replicator.postgres.session.connect import Connection, identifier, translated
from replicator.postgres.session.pins import pin
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.retrying import retry

Part = Literal["tables", "indexes", "constraints"]
PARTS: tuple[Part, ...] = ("tables", "indexes", "constraints")

_PART = r'(?:"(?:[^"]|"")+"|[^\s".(;]+)'
NAME = rf"({_PART}(?:\.{_PART})*)"
"""A name as SQL writes it, with its schema or without."""

ADD_CONSTRAINT = re.compile(rf"^\s*ALTER\s+TABLE\s+(?:ONLY\s+)?{NAME}\s+ADD\s+CONSTRAINT\s+{NAME}\s", re.IGNORECASE)
DISTURBING = re.compile(
    rf"{ADD_CONSTRAINT.pattern}|^\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:CONSTRAINT\s+)?TRIGGER\s"
    r"|^\s*ALTER\s+TABLE\s.*\sTRIGGER\s",
    re.IGNORECASE | re.DOTALL,
)
"""What the writer must know of before it writes on: a constraint, or a trigger, which is not to fire for it."""
VALIDATE_CONSTRAINT = re.compile(
    rf"^\s*ALTER\s+TABLE\s+(?:ONLY\s+)?{NAME}\s+VALIDATE\s+CONSTRAINT\s+{NAME}\s*$", re.IGNORECASE
)
CREATE_POLICY = re.compile(rf"^\s*CREATE\s+POLICY\s+{NAME}\s+ON\s+{NAME}", re.IGNORECASE)
CREATE_TRIGGER = re.compile(
    rf"^\s*CREATE\s+(?:CONSTRAINT\s+)?TRIGGER\s+{NAME}\s.*?\sON\s+{NAME}", re.IGNORECASE | re.DOTALL
)
CREATE_SCHEMA = re.compile(rf"^\s*CREATE\s+SCHEMA\s+IF\s+NOT\s+EXISTS\s+{NAME}\s*$", re.IGNORECASE)
CREATE_TABLE = re.compile(rf"^\s*CREATE\s+TABLE\s+IF\s+NOT\s+EXISTS\s+{NAME}", re.IGNORECASE)
CREATE_INDEX = re.compile(
    rf"^\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?{NAME}\s+ON\s+(?:ONLY\s+)?"
    rf"{NAME}[\s(]",
    re.IGNORECASE,
)
MEND = "Correct it, then run it again; what is done already is left alone."
ROWS_CLASH = (
    "Correct the rows or the transforms: `replicator dry-run` names the rows that constraints and indexes of the "
    "new schema refuse. Then run it again; what is done already is left alone."
)
LOCK_TRIES = 200
CLASH_TRIES = 5
CLASHES = ("23503", "23505")
"""Foreign keys and unique values: rows that were read ahead of the stream break them, until it has caught up."""


@dataclass(frozen=True)
class Writer:
    """The daemon, which writes to the tables while they are built."""

    kept_off: Callable[[], AbstractAsyncContextManager[None]]
    """Keeps it from writing meanwhile; after it, it knows the constraints there are then."""
    catch_up: Callable[[], Awaitable[None]]
    """Waits until it has applied all that is committed by now."""


def part_statements(migration: Migration, part: Part) -> list[str]:
    """The statements of ``sql/new/*_<part>.sql``, in the files' order. Raises MigrationError when there is no table."""
    folder = migration.folder() / "new"
    files = sorted(folder.glob(f"*_{part}.sql"))
    if not files and part == "tables":
        raise MigrationError(f"There is no *_tables.sql in {folder}.", "Write the new tables' DDL there.")
    return [statement for file in files for statement in statements(file)]


def made_tables(statements_: Iterable[str]) -> set[tuple[str, str]]:
    """The schema and name of each table that CREATE TABLE IF NOT EXISTS makes in these statements."""
    found = (CREATE_TABLE.match(each) for each in statements_)
    parts = [[_unquoted(part) for part in re.findall(_PART, each.group(1))] for each in found if each is not None]
    return {(each[0], each[1]) for each in parts if len(each) == 2}


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def check_queries(migration: Migration) -> dict[str, str]:
    """The queries in ``sql/checks`` by name; each must return no row."""
    files = sorted((migration.folder() / "checks").glob("*.sql"))
    return {file.stem: found[0] for file in files if (found := statements(file))}


def statements(file: Path) -> list[str]:
    """The statements of a file, without comments."""
    return split(file.read_text(encoding="utf-8"))


async def apply_part(
    connection: Connection,
    migration: Migration,
    part: Part,
    report: Callable[[str], None] = lambda _: None,
    writer: Writer | None = None,
) -> None:
    """Run one part's statements that have not been run yet.

    :param connection: in autocommit mode: CREATE INDEX CONCURRENTLY is refused in a transaction.
    :param report: told each statement's first line before it runs.
    :raises MigrationError: naming the statement that Postgres refused.
    """
    for statement in part_statements(migration, part):
        if await _is_done(connection, statement):
            continue
        report(shortened(statement, 120))
        try:
            await reach(Failpoint.STATEMENT_COMING)
            await _execute_in_the_end(connection, statement, report, writer)
            await reach(Failpoint.STATEMENT_DONE)
        except ReplicatorError as error:
            if error.transient:
                raise
            problem, remedy = refused(error, ROWS_CLASH if isinstance(error, RowError) else MEND)
            raise MigrationError(
                f"The statement {shortened(statement)!r} in sql/new failed: {problem}", remedy
            ) from error


async def _execute_in_the_end(
    connection: Connection, statement: str, report: Callable[[str], None], writer: Writer | None
) -> None:
    """Once a foreign key is there, though not valid, the writer breaks it no more: so waiting once is enough for it."""

    async def catch_up(_: RowError) -> None:
        report("rows clash: again, when the stream has caught up")
        if writer is not None:
            await writer.catch_up()
        await _drop_invalid(connection, statement)

    await retry(
        lambda: _execute(connection, statement, writer),
        on=RowError,
        when=lambda error: writer is not None and error.sqlstate in CLASHES,
        tries=CLASH_TRIES,
        between=catch_up,
    )


async def _execute(connection: Connection, statement: str, writer: Writer | None) -> None:
    """Wait for locks in short turns only: whoever waits for a lock holds up everybody behind it."""
    with translated():
        await connection.execute("SET lock_timeout = '2s'")

    async def execute() -> None:
        async with writer.kept_off() if writer and DISTURBING.match(statement) else nullcontext():
            with translated():
                await connection.execute(statement.encode())

    try:
        await retry(
            execute, on=RetryableError, tries=LOCK_TRIES, between=lambda _: _drop_invalid(connection, statement)
        )
    finally:
        if not connection.closed:
            await pin(connection)  # a statement of the author's may have set something for the session


WRITTEN_SO = "(parse_ident(%s))[1]::name"
"""A name as the catalogue has it: without quotes, or in lower case, and no longer than it may be."""
CONSTRAINT = f"EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%s) AND conname = {WRITTEN_SO} {{}})"
DONE = (
    (CREATE_SCHEMA, "to_regnamespace(%s) IS NOT NULL", (0,)),
    (CREATE_TABLE, "to_regclass(%s) IS NOT NULL", (0,)),
    (
        CREATE_INDEX,
        (
            "EXISTS (SELECT FROM pg_class i JOIN pg_index x ON x.indexrelid = i.oid "
            f"WHERE x.indrelid = to_regclass(%s) AND i.relname = {WRITTEN_SO})"
        ),
        (1, 0),
    ),
    (ADD_CONSTRAINT, CONSTRAINT.format(""), (0, 1)),
    (VALIDATE_CONSTRAINT, CONSTRAINT.format("AND convalidated"), (0, 1)),
    (
        CREATE_POLICY,
        f"EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass(%s) AND polname = {WRITTEN_SO})",
        (1, 0),
    ),
    (
        CREATE_TRIGGER,
        f"EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgname = {WRITTEN_SO})",
        (1, 0),
    ),
)
"""Forms of statements, how to see that one of the form has been run, and which of its names the question takes."""


async def _is_done(connection: Connection, statement: str) -> bool:
    """Whether a statement has been run before. Drops the index that a stop has left half-built."""
    await _drop_invalid(connection, statement)
    for form, question, places in DONE:
        found = form.match(statement)
        if found is not None:
            with translated():
                cursor = await connection.execute(
                    f"SELECT {question}".encode(), [found.groups()[place] for place in places]
                )
                row = await cursor.fetchone()
                return bool(row and row[0])
    return False


async def _drop_invalid(connection: Connection, statement: str) -> None:
    found = CREATE_INDEX.match(statement)
    if found is None:
        return
    with translated():
        cursor = await connection.execute(
            "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            f"WHERE i.indrelid = to_regclass(%s) AND NOT i.indisvalid AND c.relname = {WRITTEN_SO}",
            (found.group(2), found.group(1)),
        )
        row = await cursor.fetchone()
        if row is not None:
            await connection.execute(f"DROP INDEX CONCURRENTLY {row[0]}".encode())


async def analyze_tables(connection: Connection, tables: Iterable[Name]) -> None:
    """ANALYZE each; in autocommit mode, so that no lock outlives its table."""
    with translated():
        for name in tables:
            await connection.execute(sql.SQL("ANALYZE {}").format(identifier(name.schema, name.table)))


async def invalid_objects(connection: Connection, schema: str) -> list[str]:
    """Constraints not validated and indexes not valid in a schema: what still keeps the gate shut.

    For a foreign key to a partitioned table Postgres makes one constraint more for each partition, and never marks it
    as validated: the key itself counts. One whose triggers are switched off is valid by name only: nothing is checked.
    """
    with translated():
        cursor = await connection.execute(
            "SELECT c.conrelid::regclass::text || ': ' || c.conname FROM pg_constraint c "
            "JOIN pg_namespace n ON n.oid = c.connamespace WHERE n.nspname = %(s)s AND NOT c.convalidated "
            "AND c.conparentid = 0 "
            "UNION ALL SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(s)s AND NOT i.indisvalid "
            "UNION ALL SELECT DISTINCT c.conrelid::regclass::text || ': ' || c.conname || ' (switched off)' "
            "FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace "
            "JOIN pg_trigger t ON t.tgconstraint = c.oid AND t.tgisinternal AND t.tgenabled NOT IN ('O', 'A') "
            "WHERE n.nspname = %(s)s AND c.contype = 'f'",
            {"s": schema},
        )
        return [row[0] for row in await cursor.fetchall()]


async def failing_checks(connection: Connection, checks: dict[str, str]) -> list[str]:
    """The names of the migration's check queries that return a row."""
    failing = []
    for name, query in checks.items():
        try:
            with translated():
                cursor = await connection.execute(query.encode())
                if await cursor.fetchone() is not None:
                    failing.append(name)
        except ReplicatorError as error:
            if error.transient:
                raise
            problem, remedy = refused(error, f"Correct sql/checks/{name}.sql.")
            raise MigrationError(f"The check {name} does not run: {problem}", remedy) from error
    return failing
