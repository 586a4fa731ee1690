"""Columns that transforms give for some rows of a table and leave out for others: there the default stands."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace

from psycopg import sql

from replicator.core.tables import Name, Table
from replicator.errors import RowError, TransformError
from replicator.mapping.derive import TargetRow
from replicator.migration import Direction
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.texts import shown
from replicator.postgres.session.connect import Connection, connection, identifier, translated

# A function that is not immutable, CURRENT_TIMESTAMP and its like, or a sequence: another value each time.
DEFAULT = """
    WITH found AS (
        SELECT a.attidentity <> '' AS identity,
            coalesce(d.adbin::text, t.typdefaultbin::text) AS tree,
            coalesce(
                pg_catalog.pg_get_expr(d.adbin, d.adrelid), pg_catalog.pg_get_expr(t.typdefaultbin, 0)
            ) AS expression
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = %(table)s::regclass AND a.attname = %(column)s
    )
    SELECT identity OR coalesce(tree ~ '\\{(SQLVALUEFUNCTION|NEXTVALUEEXPR)', false) OR EXISTS (
            SELECT FROM pg_catalog.regexp_matches(tree, ':(?:opfuncid|funcid) (\\d+)', 'g') AS m
            JOIN pg_catalog.pg_proc p ON p.oid = m[1]::oid WHERE p.provolatile <> 'i'
        ), expression
    FROM found
"""


@dataclass(frozen=True)
class Default:
    """A column's default as text; ``varies`` when it is another each time, or fails, and there is no such text."""

    text: str | None
    varies: bool = False


class GivenColumns:
    """Those of one pipeline's targets. Noted for good: what was given once must be taken back where it is left out.

    A column that no transform has ever given is not in here: it is let alone once its row is there.
    """

    def __init__(self, pipeline: Direction, dsn: str | None) -> None:
        """``dsn`` leads to the target; with None, nothing is noted."""
        self._pipeline = pipeline
        self._dsn = dsn
        self._known: dict[str, set[str]] = {}
        self._defaults: dict[tuple[Name, str], Default] = {}
        self._loaded = dsn is None
        self._lock = asyncio.Lock()

    async def complete(
        self, target: Connection, table: Table, rows: Iterable[TargetRow]
    ) -> list[TargetRow | TransformError]:
        """The rows, with the defaults of what they leave out and others give.

        In the place of one that leaves out a column whose default varies, or fails: what is wrong with it.
        """
        listed = list(rows)
        # As it is now: while defaults are read, another task may learn of more columns. Of these nothing was written
        # yet when these rows were derived, so the rows need none of their defaults.
        known = await self.learn(table, {name for row in listed for name in row.columns})
        for name in {name for row in listed for name in known - row.columns.keys()}:
            if (table.name, name) not in self._defaults:
                self._defaults[table.name, name] = await read_default(target, table, name)
        return [self._completed(table, row, known) for row in listed]

    def _completed(self, table: Table, row: TargetRow, known: frozenset[str]) -> TargetRow | TransformError:
        defaults = {name: self._defaults[table.name, name] for name in known - row.columns.keys()}
        varying = sorted(name for name, each in defaults.items() if each.varies)
        if varying:
            return TransformError(
                f"The transform {row.transform} leaves {', '.join(varying)} of {table.name} out for "
                f"{list(row.source_key)}, which other rows are given; its default fails, or is another each time.",
                "Give it always, or never.",
            )
        added = {name: each.text for name, each in defaults.items()}
        return replace(row, columns=row.columns | added) if added else row

    async def learn(self, table: Table, given: Iterable[str]) -> frozenset[str]:
        """Note that rows are given these columns; gives all that rows of the table are known to be given.

        Committed before the rows are: whoever comes after us must know, and one too many does no harm.
        """
        await self._learn(table, set(given) - set(table.key))
        return frozenset(self._known.get(table.declared, ()))

    async def _learn(self, table: Table, names: set[str]) -> None:
        if self._loaded and names <= self._known.get(table.declared, set()):
            return
        async with self._lock:
            await self._load()
            fresh = names - self._known.setdefault(table.declared, set())
            if fresh and self._dsn is not None:
                async with connection(self._dsn, f"{self._pipeline} columns") as opened:
                    await opened.execute(
                        "INSERT INTO _replicator.given (pipeline, target, column_name) "
                        "SELECT %s, %s, name FROM unnest(%s::text[]) AS name ON CONFLICT DO NOTHING",
                        (self._pipeline, table.declared, sorted(fresh)),
                    )
            self._known[table.declared] |= fresh

    async def _load(self) -> None:
        if self._loaded or self._dsn is None:
            return
        async with connection(self._dsn, f"{self._pipeline} columns") as opened:
            cursor = await opened.execute(
                "SELECT target, column_name FROM _replicator.given WHERE pipeline = %s", (self._pipeline,)
            )
            for target, name in await cursor.fetchall():
                self._known.setdefault(target, set()).add(name)
        self._loaded = True


async def read_default(target: Connection, table: Table, column: str) -> Default:
    """What a column gets that is left out of an INSERT."""
    name = identifier(table.name.schema, table.name.table).as_string(target)
    with translated():
        cursor = await target.execute(DEFAULT.encode(), {"table": name, "column": column})
        varies, expression = await cursor.fetchone() or (True, None)
    if varies or expression is None:
        return Default(None, varies)
    query = sql.SQL("SELECT {} FROM (SELECT ({})::{}) AS d(value)").format(
        shown(identifier("d", "value"), table.by_name[column]),
        sql.SQL(expression),
        sql.SQL(table.by_name[column].type),
    )
    try:
        with refusing():
            async with target.transaction():
                cursor = await target.execute(query)
                row = await cursor.fetchone()
    except RowError:  # a row that leaves it out cannot be written; others can
        return Default(None, varies=True)
    return Default(row[0] if row else None)
