"""What archiving and dropping old tables asks of a server: their rows, who depends on them, locks, and the drop."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from psycopg import sql
from psycopg.rows import class_row

from replicator.core.ordering import parents_first
from replicator.core.tables import Name
from replicator.postgres.session.connect import Connection, comma, identifier, translated

T = TypeVar("T")

# A partitioned table has its rows, and its size, in the partitions below it.
TABLES = """
    SELECT c.oid::int8 AS oid, n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned,
           coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
                    '{}') AS columns,
           coalesce((SELECT array_agg(quote_ident(a.attname) ORDER BY a.attnum) FROM pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
                    '{}') AS quoted_columns,
           tree.members, tree.bytes, tree.estimate,
           coalesce((SELECT array_agg(DISTINCT p.relname::text)
                     FROM pg_constraint f JOIN pg_class p ON p.oid = f.confrelid
                     WHERE f.conrelid = c.oid AND f.contype = 'f' AND f.confrelid <> c.oid), '{}') AS parents,
           coalesce((SELECT array_agg(format('%%I.%%I', sn.nspname, s.relname) ORDER BY s.relname)
                     FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
                     JOIN pg_namespace sn ON sn.oid = s.relnamespace
                     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                       AND d.refobjid = c.oid AND d.deptype IN ('a', 'i')), '{}') AS sequences
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (
        SELECT array_agg(format('%%I.%%I', mn.nspname, m.relname) ORDER BY m.oid <> c.oid, m.relname) AS members,
               sum(pg_total_relation_size(m.oid))::int8 AS bytes, greatest(sum(m.reltuples), 0)::int8 AS estimate
        FROM (SELECT relid::oid AS oid FROM pg_partition_tree(c.oid) UNION SELECT c.oid) AS t
        JOIN pg_class m ON m.oid = t.oid JOIN pg_namespace mn ON mn.oid = m.relnamespace
    ) AS tree
    WHERE n.nspname = %(schema)s AND c.relname = ANY (%(names)s) AND c.relkind IN ('r', 'p')
    ORDER BY c.relname
"""

# What belongs to a table goes with it; whoever else needs one of these is in the way.
DEPENDENTS = """
    WITH RECURSIVE going (class, oid) AS (
        SELECT 'pg_class'::regclass::oid, unnest(%(oids)s::oid[])
        UNION
        SELECT d.classid, d.objid FROM going g
        JOIN pg_depend d ON d.refclassid = g.class AND d.refobjid = g.oid AND d.deptype IN ('a', 'i', 'P', 'S')
    )
    SELECT DISTINCT CASE d.classid
        WHEN 'pg_rewrite'::regclass THEN
            (SELECT pg_describe_object('pg_class'::regclass, r.ev_class, 0) FROM pg_rewrite r WHERE r.oid = d.objid)
        ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END
    FROM going g
    JOIN pg_depend d ON d.refclassid = g.class AND d.refobjid = g.oid AND d.deptype = 'n'
    WHERE NOT EXISTS (SELECT FROM going o WHERE o.class = d.classid AND o.oid = d.objid)
    ORDER BY 1
"""

BACKUP = """
    SELECT at, details ->> 'folder' AS folder, (details ->> 'restore_tested')::boolean AS restore_tested
    FROM _replicator.journal
    WHERE event = 'backup' AND (details ->> 'taken_at')::timestamptz > %s
    ORDER BY id DESC LIMIT 1
"""


@dataclass(frozen=True, kw_only=True)
class OldTable:
    """A table that is to go.

    ``members`` are its own quoted name and its partitions'; ``columns`` are those that are not generated; ``parents``
    are the tables that its foreign keys lead to.
    """

    oid: int
    schema: str
    name: str
    partitioned: bool
    columns: list[str]
    quoted_columns: list[str]
    members: list[str]
    bytes: int
    estimate: int
    parents: list[str]
    sequences: list[str]

    def __str__(self) -> str:
        return str(Name(schema=self.schema, table=self.name))

    @property
    def identifier(self) -> sql.Identifier:
        """Its name for a statement."""
        return identifier(self.schema, self.name)

    @property
    def rows_from(self) -> sql.Composed:
        """All of its rows and no inherited ones, for a FROM."""
        return sql.SQL("{} {} AS archived").format(sql.SQL("" if self.partitioned else "ONLY"), self.identifier)


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """How many rows, and a sum over all of them that changes with any of them, whatever their order."""

    rows: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class KnownBackup:
    """A backup that the journal knows."""

    at: datetime
    folder: str
    restore_tested: bool


async def read_old_tables(connection: Connection, schema: str, names: Iterable[str]) -> list[OldTable]:
    """Those of these tables that exist, parents first."""
    found = await _rows(connection, OldTable, TABLES, {"schema": schema, "names": sorted(names)})
    by_name = {each.name: each for each in found}
    return [by_name[name] for name in parents_first({each.name: each.parents for each in found})]


async def dependents(connection: Connection, tables: Sequence[OldTable]) -> list[str]:
    """What would be lost, or broken, with these tables, and is no part of them: views, foreign keys, functions, ..."""
    with translated():
        cursor = await connection.execute(DEPENDENTS.encode(), {"oids": [each.oid for each in tables]})
        return [row[0] for row in await cursor.fetchall()]


async def owner_since(connection: Connection) -> datetime | None:
    """When ownership moved last, by the clock of this database's server."""
    with translated():
        cursor = await connection.execute("SELECT since FROM _replicator.ownership")
        row = await cursor.fetchone()
        return row[0] if row else None


async def backup_since(connection: Connection, moment: datetime) -> KnownBackup | None:
    """The latest backup whose snapshot is younger."""
    found = await _rows(connection, KnownBackup, BACKUP, (moment,))
    return found[0] if found else None


async def fingerprint(connection: Connection, table: OldTable) -> Fingerprint:
    """Read the whole table."""
    with translated():
        cursor = await connection.execute(
            sql.SQL(
                "SELECT count(*), coalesce(sum(hashtextextended(textin(record_out(archived.*)), 0)), 0)::text FROM {}"
            ).format(table.rows_from)
        )
        row = await cursor.fetchone()
        return Fingerprint(rows=row[0], digest=row[1]) if row else Fingerprint(rows=0, digest="0")


async def see_every_row(connection: Connection) -> None:
    """Let a policy that would hide rows fail the statement instead; in the caller's transaction."""
    with translated():
        await connection.execute("SET LOCAL row_security = off")


async def copy_out(connection: Connection, table: OldTable) -> AsyncGenerator[bytes, None]:
    """The rows in COPY's text format, a line each."""
    columns = comma([identifier("archived", each) for each in table.columns])
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(columns, table.rows_from)
    with translated():
        async with connection.cursor() as cursor, cursor.copy(query) as copy:
            async for data in copy:
                yield bytes(data)


async def sequence_state(connection: Connection, sequence: str) -> tuple[int, bool]:
    """A sequence's last value and whether it was given out.

    :param sequence: as the server has quoted it.
    """
    with translated():
        cursor = await connection.execute(
            sql.SQL("SELECT last_value, is_called FROM {}").format(sql.SQL(sequence))
        )  # fmt: skip
        row = await cursor.fetchone()
        return (row[0], row[1]) if row else (1, False)


async def drop_tables(connection: Connection, tables: Sequence[OldTable]) -> None:
    """Drop them together, in the caller's transaction: their foreign keys among each other are in nobody's way.

    Postgres refuses it when anything else depends on one: RESTRICT.
    """
    with translated():
        names = comma([each.identifier for each in tables])
        await connection.execute(sql.SQL("DROP TABLE {} RESTRICT").format(names))


async def _rows(connection: Connection, kind: type[T], query: str, parameters: Any) -> list[T]:
    with translated():
        async with connection.cursor(row_factory=class_row(kind)) as cursor:
            await cursor.execute(query.encode(), parameters)
            return await cursor.fetchall()
