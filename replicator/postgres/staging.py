"""Temporary tables that rows are copied into on their way to a target, or to be compared with it."""

from collections.abc import Iterable, Sequence

from psycopg import sql

from replicator.derive import TargetRow
from replicator.postgres.connect import Connection, comma, identifier
from replicator.tables import Key, Table

POSITION = "replicator_position"


class TempTable:
    """A temporary table without constraints, shaped after the target; empty at the start of each transaction."""

    def __init__(self, name: str, target: Table, columns: Sequence[str], extra: sql.SQL) -> None:
        self.name = identifier("pg_temp", name)
        self._loaded = False
        self._create = sql.SQL("CREATE TEMP TABLE {} ON COMMIT DELETE ROWS AS SELECT {}{} FROM {} WITH NO DATA").format(
            identifier(name),
            comma([identifier(column) for column in columns]),
            extra,
            identifier(target.name.schema, target.name.table),
        )

    async def create(self, connection: Connection) -> None:
        """Create it; it lasts as long as the connection."""
        await connection.execute(self._create)

    def transaction_begins(self) -> None:
        """It is empty now."""
        self._loaded = False

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
    """The two temporary tables of one target: whole rows, and keys alone."""

    def __init__(self, position: int, table: Table) -> None:
        columns = [each.name for each in table.columns if not each.generated]
        self._key = table.key
        self._rows = TempTable(f"replicator_rows_{position}", table, columns, sql.SQL(", 0 AS " + POSITION))
        self._keys = TempTable(f"replicator_keys_{position}", table, table.key, sql.SQL(""))

    @property
    def rows(self) -> sql.Identifier:
        """The name of the table of whole rows."""
        return self._rows.name

    @property
    def keys(self) -> sql.Identifier:
        """The name of the table of keys."""
        return self._keys.name

    async def create(self, connection: Connection) -> None:
        """Create both; they last as long as the connection."""
        await self._rows.create(connection)
        await self._keys.create(connection)

    def transaction_begins(self) -> None:
        """Both are empty now."""
        self._rows.transaction_begins()
        self._keys.transaction_begins()

    async def load(self, connection: Connection, columns: tuple[str, ...], rows: Iterable[TargetRow]) -> None:
        """Copy these columns of some rows."""
        await self._rows.load(connection, columns, ([row.columns[name] for name in columns] for row in rows))

    async def load_numbered(self, connection: Connection, columns: tuple[str, ...], rows: Iterable[TargetRow]) -> None:
        """Copy them with their place in the list."""
        await self._rows.load(
            connection,
            (*columns, POSITION),
            ([*(row.columns[name] for name in columns), str(place)] for place, row in enumerate(rows)),
        )

    async def load_keys(self, connection: Connection, keys: Iterable[Key]) -> None:
        """Copy some keys."""
        await self._keys.load(connection, self._key, keys)
