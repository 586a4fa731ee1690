"""The target keys that a verification pass has derived, in temporary tables.

What the target holds and the pass has not derived is extra; what it has derived twice has two owners.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from psycopg import sql

from replicator.core.tables import Key, Table, decode_key, encode_key
from replicator.postgres.catalog.operators import all_equal
from replicator.postgres.rows.halving import Halving
from replicator.postgres.rows.keys import key_of_row, read_key
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.session.connect import Connection, comma, identifier, translated

OWNER = "replicator_owner"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A target key that several source rows give."""

    key: Key
    owners: tuple[tuple[str, Key], ...]
    """Transform and source key."""


class PassKeys:
    """One pass over the targets, on a connection of its own in autocommit mode."""

    def __init__(self, connection: Connection, targets: Sequence[Table]) -> None:
        self._connection = connection
        self._tables = {
            table.name: identifier("pg_temp", f"replicator_seen_{place}") for place, table in enumerate(targets)
        }
        self._targets = targets
        self._oldest = "0"

    async def begin(self) -> None:
        """Forget the last pass; note which transactions on the target are over by now."""
        with translated():
            for table in self._targets:
                seen = self._tables[table.name]
                await self._connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(seen))
                await self._connection.execute(
                    sql.SQL("CREATE TEMP TABLE {} AS SELECT {}, ''::text AS {} FROM {} WITH NO DATA").format(
                        identifier(f"replicator_seen_{self._targets.index(table)}"),
                        comma([identifier(name) for name in table.key]),
                        identifier(OWNER),
                        identifier(table.name.schema, table.name.table),
                    )
                )
            cursor = await self._connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
            row = await cursor.fetchone()
            self._oldest = str(int(row[0]) % (1 << 32)) if row else "0"

    async def add(self, table: Table, derived: Iterable[tuple[Key, str, Key]]) -> None:
        """Note derived target keys, each with the transform and source key that give it."""
        noted = list(derived)
        if not noted:  # a COPY of nothing still makes its commit empty every staging table of the connection
            return
        columns = comma([*(identifier(name) for name in table.key), identifier(OWNER)])
        copying = sql.SQL("COPY {} ({}) FROM STDIN").format(self._tables[table.name], columns)
        rows = [(*key, encode_key((transform, *source_key))) for key, transform, source_key in noted]
        search: Halving[tuple[str, ...]] = Halving(self._connection, table, partial(self._copy, copying))
        await search.halves(rows)  # a key that the table cannot hold is no row's there, so it need not be noted

    async def _copy(self, copying: sql.Composed, rows: Sequence[tuple[str, ...]]) -> None:
        with refusing():
            async with self._connection.cursor() as cursor, cursor.copy(copying) as copy:
                for row in rows:
                    await copy.write_row(row)

    async def extra(self, table: Table) -> list[Key]:
        """Rows of the target that nothing has given, as they have stood unchanged since before the pass began.

        A younger row may come from a source row that is younger than its chunk: the next pass looks at it.
        """
        with translated():
            await self._connection.execute(sql.SQL("ANALYZE {}").format(self._tables[table.name]))
            cursor = await self._connection.execute(
                sql.SQL(
                    "SELECT {keys} FROM {table} AS t WHERE age(t.xmin) > age({oldest}::text::xid) "
                    "AND NOT EXISTS (SELECT FROM {seen} AS s WHERE {same})"
                ).format(
                    keys=key_of_row(table, "t"),
                    table=identifier(table.name.schema, table.name.table),
                    oldest=sql.Literal(self._oldest),
                    seen=self._tables[table.name],
                    same=all_equal("s", "t", table.key_columns),
                )
            )  # fmt: skip
            return [read_key(table, row) async for row in cursor]

    async def shared(self, table: Table) -> list[Shared]:
        """Target keys that several source rows give."""
        with translated():
            cursor = await self._connection.execute(
                sql.SQL(
                    "SELECT {}, array_agg(DISTINCT s.{}) FROM {} AS s GROUP BY {} HAVING count(DISTINCT s.{}) > 1"
                ).format(
                    key_of_row(table, "s"),
                    identifier(OWNER),
                    self._tables[table.name],
                    comma([sql.SQL("s.{}").format(identifier(name)) for name in table.key]),
                    identifier(OWNER),
                )
            )
            return [
                Shared(
                    key=read_key(table, row[:-1]),
                    owners=tuple((key[0], key[1:]) for key in map(decode_key, row[-1])),
                )
                async for row in cursor
            ]
