"""What a backup asks of a server: a snapshot to share, row counts, a scratch database; and pg_dump's environment."""

import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import class_row

from replicator.core.tables import Name
from replicator.postgres.session.connect import Connection, connection, identifier, translated
from replicator.postgres.session.pins import PROGRAM_OPTIONS

FACTS = """
    SELECT current_database() AS database, current_setting('server_version') AS server_version,
           current_setting('server_version_num')::int / 10000 AS major,
           pg_encoding_to_char(encoding) AS encoding, datcollate AS collation, datctype AS ctype,
           datlocprovider::text = 'c' AS libc,
           (SELECT coalesce(sum(relpages), 0)::bigint * current_setting('block_size')::bigint FROM pg_class
            WHERE relkind IN ('r', 'm', 't')) AS table_bytes,
           (SELECT count(*) FROM pg_class
            WHERE relkind = 'r' AND relnamespace NOT IN
                (SELECT oid FROM pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema'))) AS tables
    FROM pg_database WHERE datname = current_database()
"""

# The rows of an extension's tables are not in a dump.
TABLES = """
    SELECT n.nspname AS schema, c.relname AS table
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1, 2
"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The database that is backed up; ``table_bytes`` is without indexes, as the last VACUUM saw it."""

    database: str
    server_version: str
    major: int
    encoding: str
    collation: str
    ctype: str
    libc: bool
    table_bytes: int
    tables: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot that other sessions may share while its transaction is open, and where in the log it was taken."""

    name: str
    lsn: str
    taken_at: datetime


async def read_facts(connection: Connection) -> Facts:
    """The connection's database."""
    with translated():
        # before 15 there is no other provider than libc in a database
        query = (
            FACTS if connection.info.server_version >= 150000 else FACTS.replace("datlocprovider::text = 'c'", "true")
        )
        async with connection.cursor(row_factory=class_row(Facts)) as cursor:
            await cursor.execute(query.encode())
            (facts,) = await cursor.fetchall()
        return facts


@asynccontextmanager
async def shared_snapshot(connection: Connection) -> AsyncIterator[Snapshot]:
    """A read-only transaction whose snapshot others may take up until the end of the block."""
    with translated():
        async with connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            async with connection.cursor(row_factory=class_row(Snapshot)) as cursor:
                await cursor.execute(
                    "SELECT pg_export_snapshot() AS name, pg_current_wal_lsn()::text AS lsn, "
                    "clock_timestamp() AS taken_at"
                )
                (snapshot,) = await cursor.fetchall()
            yield snapshot


async def tables_of(connection: Connection, schemas: Sequence[str]) -> list[Name]:
    """The tables of these schemas, partitions by their root."""
    with translated():
        async with connection.cursor(row_factory=class_row(Name)) as cursor:
            await cursor.execute(TABLES, (list(schemas),))
            return await cursor.fetchall()


async def count_rows(connection: Connection, tables: Iterable[Name]) -> dict[str, int]:
    """The rows of each table, by its qualified name."""
    counted = {}
    for name in tables:
        with translated():
            cursor = await connection.execute(
                sql.SQL("SELECT count(*) FROM {}").format(identifier(name.schema, name.table))
            )
            row = await cursor.fetchone()
        counted[str(name)] = int(row[0]) if row else 0
    return counted


async def create_scratch(connection: Connection, name: str, facts: Facts, *, same_server: bool) -> None:
    """Create an empty database; on the same server with the locale of the one that was backed up."""
    options = [sql.SQL("TEMPLATE template0 ENCODING {}").format(sql.Literal(facts.encoding))]
    if same_server and facts.libc:
        options.append(
            sql.SQL("LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(facts.collation), sql.Literal(facts.ctype))
        )
    with translated():
        await connection.execute(
            sql.SQL("CREATE DATABASE {} {}").format(identifier(name), sql.SQL(" ").join(options))
        )  # fmt: skip


async def drop_scratch(dsn: str, name: str) -> None:
    """Drop a database and whoever is connected to it."""
    async with connection(dsn, "restore test") as admin:
        await admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier(name)))


def database_dsn(connection: Connection, dsn: str, database: str) -> str:
    """The way to another database of the same server, with the password that opened this one."""
    password = connection.info.password
    return make_conninfo(dsn, dbname=database, **({"password": password} if password else {}))


def program_environment(connection: Connection, database: str | None = None) -> dict[str, str]:
    """The environment in which a program of Postgres' connects as this connection has: no secret in its arguments."""
    options = {each.envvar.decode(): each.val.decode() for each in connection.pgconn.info if each.envvar and each.val}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    info = connection.info
    options.pop("PGSERVICE", None)  # what the service says is in the other options
    options |= {"PGHOST": info.host, "PGPORT": str(info.port), "PGUSER": info.user}
    if info.password:
        options["PGPASSWORD"] = info.password
    if "PGHOSTADDR" in options:
        options["PGHOSTADDR"] = info.hostaddr
    return kept | options | {"PGDATABASE": database or info.dbname, "PGOPTIONS": PROGRAM_OPTIONS, "LC_ALL": "C"}
