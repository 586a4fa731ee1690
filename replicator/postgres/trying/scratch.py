"""Temporary copies of the target tables, to try rows on: nothing of them reaches the log, nothing stays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from psycopg import sql

from replicator.core.name_map import NameMap
from replicator.core.tables import ForeignKey, Key, Name, Table, decode_key, encode_key
from replicator.errors import RowError
from replicator.mapping.derive import TargetRow
from replicator.mapping.plan import Source
from replicator.postgres.catalog.operators import refers
from replicator.postgres.ddl.rewriting import rewritten
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.selecting import having_key, source_as
from replicator.postgres.session.connect import Connection, comma, give_text, identifier, translated
from replicator.postgres.session.server import fetch

ORIGIN = "replicator_origin"
EXAMPLES = 5

UNIQUE_INDEXES = """
    SELECT c.relname AS name, coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_count,
        pg_get_expr(i.indpred, i.indrelid) AS predicate,
        ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts) k) AS parts
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = %(table)s::regclass AND i.indisunique ORDER BY i.indisprimary DESC, c.relname
"""
LOCKED = """
    SELECT EXISTS (
        SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE l.pid = pg_backend_pid() AND n.nspname = %(schema)s AND l.mode <> 'AccessShareLock'
    ) AS locked
"""

Place = tuple[str, Key]
"""A transform and a source key."""


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Rows that one constraint or unique index does not admit together."""

    table: str
    name: str
    """Of the constraint or index."""
    kind: Literal["unique", "foreign key"]
    count: int
    """Groups of rows with the same value; or rows whose parent is not there."""
    examples: tuple[tuple[Place, ...], ...]


class Scratch:
    """The copies, in the caller's transaction; each row bears the name of what gave it.

    They have the columns, types, defaults, NOT NULLs and CHECKs of the tables. What must be unique or have a parent is
    asked for at the end, so that both rows can be named.
    """

    def __init__(self, connection: Connection, targets: Sequence[Table]) -> None:
        self.connection = connection
        self._targets = targets
        self._places = {
            table.name: Name(schema="pg_temp", table=f"replicator_copy_{place}") for place, table in enumerate(targets)
        }
        self._copies = {name: identifier(place.schema, place.table) for name, place in self._places.items()}

    def in_place(self, source: Source) -> Source | None:
        """A source that reads the tables, as one that reads the copies; None for a table that is not copied.

        A query reads the copies of those tables that it names with their schema.
        """
        if source.table is not None:
            place = self._places.get(source.table.name)
            return None if place is None else replace(source, table=replace(source.table, name=place))
        return replace(source, query=rewritten(source.query or "", NameMap(self._places)))

    async def create(self) -> None:
        """Make them."""
        with translated():
            for table in self._targets:
                await self.connection.execute(
                    sql.SQL(
                        "CREATE TEMP TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED "
                        "INCLUDING IDENTITY, {} text) ON COMMIT DROP"
                    ).format(
                        identifier(f"replicator_copy_{self._targets.index(table)}"),
                        identifier(table.name.schema, table.name.table),
                        identifier(ORIGIN),
                    )
                )

    async def load(self, table: Table, rows: Sequence[TargetRow]) -> RowError | None:
        """Copy these rows in: all, or none and the error."""
        groups: dict[tuple[str, ...], list[TargetRow]] = {}
        for row in rows:
            groups.setdefault(tuple(row.columns), []).append(row)
        try:
            with refusing():
                async with self.connection.transaction():
                    for columns, group in groups.items():
                        await self._copy(table, columns, group)
        except RowError as error:
            return error
        return None

    async def _copy(self, table: Table, columns: tuple[str, ...], rows: Iterable[TargetRow]) -> None:
        names = comma([identifier(name) for name in (*columns, ORIGIN)])
        async with (
            self.connection.cursor() as cursor,
            cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(self._copies[table.name], names)) as copy,
        ):
            for row in rows:
                origin = encode_key((row.transform, *row.source_key))
                await copy.write_row([*(row.columns[name] for name in columns), origin])

    async def printed(self, table: Table, key: Key) -> dict[str, str | None]:
        """The copy with this key as Postgres prints it, defaults and generated columns included; empty without one."""
        return await self._printed(table, self._places[table.name], key)

    async def held(self, table: Table, key: Key) -> dict[str, str | None]:
        """The row of the table itself. Through this transaction: it may hold a lock that any other would wait for."""
        return await self._printed(table, table.name, key)

    async def _printed(self, table: Table, place: Name, key: Key) -> dict[str, str | None]:
        source = Source(
            name=table.declared,
            table=replace(table, name=place),
            query=None,
            columns=table.columns,
            key=table.key,
            transforms=(),
        )
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
            comma([identifier("q", each.name) for each in table.columns]), source_as(source), having_key(source)
        )
        async with self.connection.cursor() as cursor:
            give_text(cursor)
            with translated():
                await cursor.execute(query, list(key))
                row = await cursor.fetchone() or ()
        return dict(zip((each.name for each in table.columns), row, strict=bool(row)))

    async def analyze(self) -> None:
        """Let the planner know how large they are."""
        with translated():
            for copy in self._copies.values():
                await self.connection.execute(sql.SQL("ANALYZE {}").format(copy))

    async def clashes(self, table: Table) -> list[Conflict]:
        """Rows with the same value where it must be unique: by the primary key and every unique index."""
        name = identifier(table.name.schema, table.name.table).as_string(self.connection)
        found = []
        for index in await fetch(self.connection, UNIQUE_INDEXES, table=name):
            parts = [sql.SQL("({})").format(sql.SQL(part)) for part in index["parts"]]
            conditions = [] if index["nulls_count"] else [sql.SQL("{} IS NOT NULL").format(part) for part in parts]
            if index["predicate"]:
                conditions.append(sql.SQL("({})").format(sql.SQL(index["predicate"])))
            query = sql.SQL(
                "SELECT (array_agg({origin} ORDER BY {origin}))[1:3], count(*) OVER () FROM {copy} WHERE {where} "
                "GROUP BY {parts} HAVING count(*) > 1 LIMIT {limit}"
            ).format(
                origin=identifier(ORIGIN),
                copy=self._copies[table.name],
                where=sql.SQL(" AND ").join([sql.SQL("true"), *conditions]),
                parts=comma(parts),
                limit=EXAMPLES,
            )
            found += await self._conflicts(table, index["name"], "unique", query)
        return found

    async def orphans(self, table: Table, foreign_key: ForeignKey) -> list[Conflict]:
        """Rows that refer to a row that is not there: among the copies, or in the table itself where there is none."""
        query = sql.SQL(
            "SELECT ARRAY[c.{origin}], count(*) OVER () FROM {copy} AS c WHERE {there} "
            "AND NOT EXISTS (SELECT FROM {parent} AS p WHERE {same}) LIMIT {limit}"
        ).format(
            origin=identifier(ORIGIN),
            copy=self._copies[table.name],
            there=sql.SQL(" AND ").join(
                [sql.SQL("c.{} IS NOT NULL").format(identifier(mine)) for mine in foreign_key.columns]
            ),
            parent=self._copies.get(
                foreign_key.parent, identifier(foreign_key.parent.schema, foreign_key.parent.table)
            ),
            same=refers(foreign_key, "c", "p"),
            limit=EXAMPLES,
        )
        return await self._conflicts(table, foreign_key.name, "foreign key", query)

    async def _conflicts(
        self, table: Table, name: str, kind: Literal["unique", "foreign key"], query: sql.Composed
    ) -> list[Conflict]:
        with translated():
            cursor = await self.connection.execute(query)
            rows = await cursor.fetchall()
        if not rows:
            return []
        examples = tuple(tuple(_place(origin) for origin in origins) for origins, _ in rows)
        return [Conflict(table=table.name.table, name=name, kind=kind, count=rows[0][1], examples=examples)]


async def locks_in(connection: Connection, schema: str) -> bool:
    """Whether this transaction holds more than a reader's lock on a table of a schema."""
    (row,) = await fetch(connection, LOCKED, schema=schema)
    return bool(row["locked"])


async def exclusion_constraints(connection: Connection, tables: Iterable[Name]) -> list[str]:
    """The names of the exclusion constraints of these tables."""
    names = [identifier(name.schema, name.table).as_string(connection) for name in tables]
    rows = await fetch(
        connection,
        "SELECT conname AS name FROM pg_constraint WHERE contype = 'x' AND conrelid = ANY (%(tables)s::regclass[])",
        tables=names,
    )
    return [row["name"] for row in rows]


def _place(origin: str) -> Place:
    transform, *key = decode_key(origin)
    return transform, tuple(key)
