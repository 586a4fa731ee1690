"""What the migration's SQL does, seen by running it in transactions that are always rolled back."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from psycopg import sql

from replicator.core.tables import Column, Name, Row, Table
from replicator.errors import DatabaseError, MigrationError, ReplicatorError
from replicator.mapping.plan import Source
from replicator.postgres.catalog.forms import read_forms
from replicator.postgres.ddl.authored import refused
from replicator.postgres.ddl.statements import ends_transaction
from replicator.postgres.rows.looking_up import lookup_query
from replicator.postgres.rows.source import parse_row
from replicator.postgres.rows.streaming import Texts, grouped, streamed
from replicator.postgres.session.connect import Connection, beside_parameters, comma, identifier, translated
from replicator.postgres.session.passing import pass_guards
from replicator.postgres.session.server import fetch
from replicator.postgres.trying.meanings import means_another, without_parameters

LOCK_TIMEOUT = "2s"
LOOKED_UP = 10
"""Rows for which a Lookup is tried."""
MOST_COUNTED = 100_000
"""Of the keys that it gives."""
SAMPLE_TIMEOUT = "10s"
CONCURRENTLY = re.compile(r"\bCONCURRENTLY\b", re.IGNORECASE)
NOT_IN_TRANSACTION = ("25001", "55P04")
"""It cannot run in a transaction block; or it uses the value that the same transaction has added to an enum."""
PARAMETER = re.compile(r"%\((.+?)\)s")

# Through views that it reads, too. A whole row (``to_jsonb(alias)``) leaves no trace of its columns here.
VIEW_READS = """
    WITH RECURSIVE reads AS (
        SELECT d.refobjid AS oid, d.refobjsubid AS place FROM pg_rewrite r
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        WHERE r.ev_class = %(view)s::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
        UNION
        SELECT d.refobjid, d.refobjsubid FROM reads v
        JOIN pg_class c ON c.oid = v.oid AND c.relkind = 'v' JOIN pg_rewrite r ON r.ev_class = v.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
    )
    SELECT n.nspname AS schema, c.relname AS table, a.attname::text AS column
    FROM reads v JOIN pg_class c ON c.oid = v.oid AND c.relkind IN ('r', 'p', 'f', 'm')
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum = v.place AND v.place > 0
"""

# What Postgres itself gives another value for each time: a clock, chance, a sequence. An own function may be declared
# VOLATILE, as is the default, and be none.
VIEW_VARIES = """
    SELECT DISTINCT p.proname || '()' AS call FROM pg_rewrite r
    CROSS JOIN regexp_matches(r.ev_action::text, ':(?:opfuncid|funcid) (\\d+)', 'g') AS m
    JOIN pg_proc p ON p.oid = m[1]::oid AND p.pronamespace = 'pg_catalog'::regnamespace
    WHERE r.ev_class = %(view)s::regclass AND (
        p.provolatile = 'v' OR p.proname IN ('now', 'transaction_timestamp', 'statement_timestamp')
        OR p.proname = 'age' AND p.pronargs = 1
    )
    UNION
    SELECT 'CURRENT_TIMESTAMP' FROM pg_rewrite
    WHERE ev_class = %(view)s::regclass AND ev_action::text ~ '\\{SQLVALUEFUNCTION :op [0-8] '
    ORDER BY call
"""


@dataclass(frozen=True)
class QueryReads:
    """The tables that a query reads; the columns are None where it takes whole rows."""

    columns: dict[Name, set[str] | None]
    varies: tuple[str, ...] = ()
    """What it calls that gives another value each time."""


@asynccontextmanager
async def rehearsal(connection: Connection) -> AsyncIterator[None]:
    """A transaction that is always rolled back, and that waits for no lock for long."""
    with translated():
        async with connection.transaction(force_rollback=True):
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            await pass_guards(connection, in_transaction=True)
            yield


async def try_statement(connection: Connection, statement: str) -> ReplicatorError | None:
    """Run a statement of the migration inside a rehearsal; gives the error, and leaves the rehearsal usable.

    Raises MigrationError for a statement that would end the transaction.
    """
    if word := ends_transaction(statement):
        raise MigrationError(f"sql/new holds the statement {word}.", "Leave transactions to the tool: take it out.")
    try:
        with translated():
            async with connection.transaction():
                await connection.execute(statement.encode())
    except ReplicatorError as error:
        return error
    return None


async def try_as_run(connection: Connection, statement: str) -> ReplicatorError | None:
    """Try a statement that will be run outside of any transaction, as far as that can be tried inside of one.

    It is tried as it stands. What Postgres runs in no transaction is tried without CONCURRENTLY; what that would have
    been refused for, a partitioned index, is looked for. What is left, VACUUM for instance, is taken to work.
    """
    error = await try_statement(connection, statement)
    if not _untried(error):
        return error
    plain = CONCURRENTLY.sub("", statement, count=1)
    if plain == statement:
        return None
    before = await _partitioned_indexes(connection)
    error = await try_statement(connection, plain)
    if error is None and before != await _partitioned_indexes(connection):
        return MigrationError(
            "Postgres makes and drops no index of a partitioned table with CONCURRENTLY.",
            "Take CONCURRENTLY out: until the cutover nobody but the replicator writes there, and it waits.",
        )
    return None if _untried(error) else error


def _untried(error: ReplicatorError | None) -> bool:
    return isinstance(error, DatabaseError) and error.sqlstate in NOT_IN_TRANSACTION


async def _partitioned_indexes(connection: Connection) -> set[int]:
    return {each["oid"] for each in await fetch(connection, "SELECT oid FROM pg_class WHERE relkind = 'I'")}


async def read_query(connection: Connection, query: str) -> QueryReads:
    """What a query reads, by the catalogue's word: it becomes a temporary view that is rolled back.

    What functions in it read is not seen.
    """
    with translated():
        async with connection.transaction(force_rollback=True):
            await connection.execute(b"CREATE TEMP VIEW replicator_query AS " + query.encode())
            rows = await fetch(connection, VIEW_READS, view="pg_temp.replicator_query")
            calls = await fetch(connection, VIEW_VARIES, view="pg_temp.replicator_query")
            (shown,) = await fetch(connection, "SELECT pg_get_viewdef('pg_temp.replicator_query'::regclass) AS text")
    columns: dict[Name, set[str] | None] = {}
    # A stored view spells out `*`; what is left of that form is a whole row.
    whole_rows = ".*" in shown["text"]
    for row in rows:
        read = columns.setdefault(Name(schema=row["schema"], table=row["table"]), None if whole_rows else set())
        if read is not None and row["column"] is not None:
            read.add(row["column"])
    return QueryReads(columns, tuple(each["call"] for each in calls))


async def try_lookup(connection: Connection, lookup: str, table: Table, keys: Sequence[Column]) -> str | None:
    """Run a Lookup with NULLs inside a rehearsal; gives what is wrong with it.

    :param keys: the columns of the key that it must give.
    """
    unknown = sorted(lookup_columns(lookup) - set(table.by_name))
    if unknown:
        return f"names {', '.join(unknown)}, which {table.name} has not"
    try:
        with translated():
            async with connection.transaction():
                cursor = await connection.execute(lookup.encode(), dict.fromkeys(table.by_name))
                described = [(each.type_code, -1, 0) for each in cursor.description or ()]
                if len(described) != len(keys):
                    return f"returns {len(described)} columns, the key has {len(keys)}"
                forms = await read_forms(connection, described)
                await connection.execute(lookup_query(lookup, keys).encode(), dict.fromkeys(table.by_name))
    except ReplicatorError as error:
        problem, remedy = refused(error)
        return f"does not run: {problem} {remedy}".strip().rstrip(".")
    for each, key in zip(described, keys, strict=True):
        if forms[each].prints_apart and not key.form.prints_apart:
            return (
                f"returns {forms[each].base}, whose equal values print otherwise, for {key.name}, which is {key.type}"
            )
    return await means_another(connection, without_parameters(lookup))


async def most_looked_up(connection: Connection, lookup: str, table: Table) -> int:
    """The most keys that a Lookup gives for a few of the table's rows; counted up to ``MOST_COUNTED``.

    What takes longer than a sample may is taken for as many.
    """
    names = sorted(lookup_columns(lookup))
    columns = comma([identifier(name) for name in names]) if names else sql.SQL("")
    limited = f"SELECT FROM (\n{lookup.strip().rstrip(';')}\n) AS l LIMIT {MOST_COUNTED}"
    counted = f"SELECT pg_catalog.count(*)::text FROM ({limited}) AS n".encode()
    most = 0
    try:
        with translated():
            async with connection.transaction():
                await connection.execute(f"SET LOCAL statement_timeout = '{SAMPLE_TIMEOUT}'")
                cursor = await connection.execute(
                    sql.SQL("SELECT {} FROM {} LIMIT {}").format(
                        columns, identifier(table.name.schema, table.name.table), LOOKED_UP
                    )
                )
                for texts in await cursor.fetchall():
                    found = await connection.execute(counted, dict(zip(names, texts, strict=True)))
                    (keys,) = await found.fetchone() or ("0",)
                    most = max(most, int(keys))
    except ReplicatorError as error:
        slow = isinstance(error, DatabaseError) and error.sqlstate == "57014"
        return MOST_COUNTED if slow else 0
    return most


def lookup_columns(lookup: str) -> set[str]:
    """The columns of the changed row that a Lookup takes."""
    return set(PARAMETER.findall(lookup))


async def read_sample(connection: Connection, source: Source, limit: int) -> list[Row]:
    """The first rows of a source, in no order: what is cheapest to read. Waits ten seconds at most.

    Of wide rows as many as a group holds.
    """
    where = (
        identifier(source.table.name.schema, source.table.name.table)
        if source.table is not None
        else sql.SQL("({}) AS q").format(sql.SQL(source.query or ""))
    )
    columns = comma([identifier(column.name) for column in source.columns])
    query = sql.SQL("SELECT {} FROM {} LIMIT {}").format(
        beside_parameters(columns), beside_parameters(where), sql.Literal(limit)
    )
    found: list[Texts] = []
    with translated():
        async with connection.transaction(force_rollback=True):  # what is left early is cancelled
            await connection.execute(f"SET LOCAL statement_timeout = '{SAMPLE_TIMEOUT}'")
            await connection.execute("SET LOCAL transaction_read_only = on")  # as the daemon reads
            async with aclosing(streamed(connection, query, [])) as rows, aclosing(grouped(rows)) as groups:
                async for group, _, _ in groups:
                    found = group
                    break
    return [parse_row(source.columns, texts) for texts in found]
