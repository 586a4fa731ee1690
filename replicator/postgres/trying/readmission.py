"""Whether a table would take its own rows from a session of ours, as the way back writes them."""

from dataclasses import dataclass
from typing import Final

from psycopg import sql

from replicator.core.tables import Table
from replicator.errors import RowError
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.texts import read, shown
from replicator.postgres.session.connect import Connection, comma, identifier, translated
from replicator.postgres.trying.rehearsal import rehearsal

ROWS: Final = 200
SINGLY: Final = 20

COPY: Final = sql.SQL(
    "CREATE TEMP TABLE replicator_own (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED "
    "INCLUDING IDENTITY INCLUDING INDEXES)"
)
INSERT: Final = sql.SQL(
    "INSERT INTO pg_temp.replicator_own ({columns}) OVERRIDING SYSTEM VALUE "
    "SELECT {values} FROM {table} OFFSET {first} LIMIT {rows}"
)


@dataclass(frozen=True)
class Refused:
    """Some of the first rows of a table are: how many of how many that were tried one by one, and the first reason."""

    rows: int
    tried: int
    why: RowError

    @property
    def all(self) -> bool:
        """None was taken."""
        return self.rows == self.tried


async def refused_again(connection: Connection, table: Table) -> Refused | None:
    """Insert the table's first rows into a temporary one like it, with its constraints and indexes; None: all go in.

    A function in a constraint, a domain, an index or a generated column runs with our session's settings then. Only
    reads the table.
    """
    async with rehearsal(connection):
        with translated():
            await connection.execute(COPY.format(_name(table)))
            # Who may not read the table, by row security for instance, is told so: no row of it is to blame.
            await connection.execute(sql.SQL("SELECT FROM {} LIMIT 0").format(_name(table)))
        if isinstance(await _insert(connection, table, 0, ROWS), int):
            return None
        found = [await _insert(connection, table, place, 1) for place in range(SINGLY)]
    errors = [each for each in found if isinstance(each, RowError)]
    return Refused(len(errors), sum(each != 0 for each in found), errors[0]) if errors else None


async def _insert(connection: Connection, table: Table, first: int, rows: int) -> RowError | int:
    """How many of these rows there are, and went in; or why not."""
    columns = [each for each in table.columns if not each.generated]
    query = INSERT.format(
        columns=comma([identifier(each.name) for each in columns]),
        # By way of their text, as we write: a domain does not look at a value that it holds already.
        values=comma([read(shown(identifier(each.name), each), each) for each in columns]),
        table=_name(table),
        first=sql.Literal(first),
        rows=sql.Literal(rows),
    )
    try:
        with refusing():
            async with connection.transaction():
                cursor = await connection.execute(query)
                return cursor.rowcount
    except RowError as error:
        return error


def _name(table: Table) -> sql.Identifier:
    return identifier(table.name.schema, table.name.table)
