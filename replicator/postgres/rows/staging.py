"""Temporary tables that rows are copied into on their way to a target, or to be compared with it."""

from collections.abc import AsyncIterator, Iterable, Sequence

from psycopg import sql

from replicator.core.tables import Key, Table
from replicator.mapping.derive import TargetRow
from replicator.postgres.session.connect import Connection, comma, identifier

POSITION = "replicator_position"
MOST_COLUMNS = 1_600
"""Postgres' limit for a table: one that has so many leaves no room for the position."""


class TempTable:
    """A temporary table without constraints, shaped after the target; empty at the start of each transaction."""

    def __init__(self, name: str, target: Table, columns: Sequence[str], extra: sql.SQL) -> None:
        self.name = identifier("pg_temp", name)
        self._loaded = False
        self._create = sql.SQL(
            "CREATE TEMP TABLE IF NOT EXISTS {} ON COMMIT DELETE ROWS AS SELECT {}{} FROM {} WITH NO DATA"
        ).format(
            identifier(name),
            comma([identifier(column) for column in columns]),
            extra,
            identifier(target.name.schema, target.name.table),
        )

    async def create(self, connection: Connection) -> None:
        """Create it, where it is missing; it lasts as long as the connection."""
        await connection.execute(self._create)

    def transaction_begins(self) -> None:
        """It is empty now."""
        self._loaded = False

    async def empty(self, connection: Connection) -> None:
        """Have it there, and empty, whatever has been rolled back since: for those that are rarely needed."""
        await self.create(connection)
        await connection.execute(sql.SQL("TRUNCATE {}").format(self.name))

    async def load(self, connection: Connection, columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> None:
        """Copy these rows into it, and nothing else."""
        if self._loaded:
            await connection.execute(sql.SQL("TRUNCATE {}").format(self.name))
        self._loaded = True
        names = comma([identifier(name) for name in columns])
        async with (
            connection.cursor() as cursor,
            cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(self.name, names)) as copy,
        ):
            for row in rows:
                await copy.write_row(row)


class Stage:
    """The temporary tables of one target: whole rows, rows with their place in a list, and keys alone."""

    def __init__(self, position: int, table: Table) -> None:
        columns = [each.name for each in table.columns if not each.generated]
        numbered = sql.SQL(", 0 AS " + POSITION)
        self._key = table.key
        self._keys = TempTable(f"replicator_keys_{position}", table, table.key, sql.SQL(""))
        self._rows = TempTable(f"replicator_rows_{position}", table, columns, numbered)
        self.aside = TempTable(f"replicator_aside_{position}", table, columns, sql.SQL(""))
        """Rows as they were; made when it is first needed."""
        self._parts = [(self._rows, columns)]
        if len(columns) >= MOST_COLUMNS:
            self._rows = TempTable(f"replicator_rows_{position}", table, columns, sql.SQL(""))
            others = [name for name in columns if name not in table.key]
            halves = (others[: len(others) // 2], others[len(others) // 2 :])
            self._parts = [
                (TempTable(f"replicator_part_{position}_{place}", table, [*table.key, *half], numbered), half)
                for place, half in enumerate(halves)
            ]

    @property
    def rows(self) -> sql.Identifier:
        """The name of the table of whole rows."""
        return self._rows.name

    @property
    def keys(self) -> sql.Identifier:
        """The name of the table of keys."""
        return self._keys.name

    async def create(self, connection: Connection) -> None:
        """Create them; they last as long as the connection."""
        for each in self._tables():
            await each.create(connection)

    def transaction_begins(self) -> None:
        """They are empty now."""
        for each in self._tables():
            each.transaction_begins()

    def _tables(self) -> list[TempTable]:
        return list(dict.fromkeys([self._rows, self._keys, *(each for each, _ in self._parts)]))

    async def load(self, connection: Connection, columns: tuple[str, ...], rows: Iterable[TargetRow]) -> None:
        """Copy these columns of some rows."""
        await self._rows.load(connection, columns, ([row.columns[name] for name in columns] for row in rows))

    async def load_numbered(
        self, connection: Connection, columns: tuple[str, ...], rows: Sequence[TargetRow]
    ) -> AsyncIterator[tuple[sql.Identifier, list[str]]]:
        """Copy them with their place in the list, in parts where they are too wide.

        Gives each part's table, and which columns besides the key it holds.
        """
        for part, held in self._parts:
            others = [name for name in columns if name in held and name not in self._key]
            names = [*self._key, *others]
            await part.load(
                connection,
                (*names, POSITION),
                ([*(row.columns[name] for name in names), str(place)] for place, row in enumerate(rows)),
            )
            yield part.name, others

    async def load_keys(self, connection: Connection, keys: Iterable[Key]) -> None:
        """Copy some keys."""
        await self._keys.load(connection, self._key, keys)
