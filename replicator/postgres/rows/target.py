"""Writes target rows: COPY into a temporary staging table, then one statement per target."""

from collections.abc import Iterable, Sequence

from psycopg import sql

from replicator.core.tables import ForeignKey, Key, Name, Table
from replicator.mapping.derive import TargetRow
from replicator.postgres.catalog.operators import all_equal, refers
from replicator.postgres.rows.inserting import by_columns, insert, same_key
from replicator.postgres.rows.keys import key_of_row, read_key
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.staging import Stage
from replicator.postgres.rows.texts import shown
from replicator.postgres.session.connect import Connection, comma, identifier, translated
from replicator.postgres.session.passing import pass_guards
from replicator.runtime.failpoints import Failpoint, reach

MADE_AT_ONCE = 100
"""Targets whose staging tables are made in one transaction."""


class TargetWriter:
    """Staging tables and statements for one pipeline's targets, on one connection, inside the caller's transaction.

    All its methods raise RowError for whatever one of the rows or keys that they are given may have caused.
    """

    def __init__(self, connection: Connection, targets: Sequence[Table]) -> None:
        self.connection = connection
        self.aside: dict[Name, frozenset[str]] = {}
        """The tables of which rows are kept aside (``rearranging.put_aside``): what is inserted in the place of one has
        the columns of it that it leaves out, but for these, which are NULL at first."""
        self._stages = {table.name: Stage(position, table) for position, table in enumerate(targets)}

    async def prepare(self) -> None:
        """Create the staging tables; they last as long as the connection."""
        with translated():
            await self.connection.execute("SELECT set_config('replicator.writer', 'daemon', false)")  # for triggers
            await pass_guards(self.connection)
            await self.connection.execute("SELECT set_config('synchronous_commit', 'on', false)")
            stages = list(self._stages.values())
            # Each commit empties all that are there: with one for each, a thousand targets would take minutes. In one
            # transaction, its locks would fill the server's table of them.
            for start in range(0, len(stages), MADE_AT_ONCE):
                async with self.connection.transaction():
                    for stage in stages[start : start + MADE_AT_ONCE]:
                        await stage.create(self.connection)

    def transaction_begins(self) -> None:
        """To be called at the start of each transaction: the staging tables are empty now."""
        for stage in self._stages.values():
            stage.transaction_begins()

    def stage(self, table: Table) -> Stage:
        """The staging tables of one target."""
        return self._stages[table.name]

    async def upsert(self, table: Table, rows: Iterable[TargetRow]) -> int:
        """Insert or replace; gives how many rows were written."""
        return await self._write(table, rows, absent_only=False)

    async def insert_absent(self, table: Table, rows: Iterable[TargetRow]) -> int:
        """Insert the rows whose key is not there yet; gives how many were written."""
        return await self._write(table, rows, absent_only=True)

    async def delete(self, table: Table, keys: Iterable[Key]) -> int:
        """Delete by key; gives how many rows went."""
        stage = self._stages[table.name]
        with refusing():
            await stage.load_keys(self.connection, keys)
            cursor = await self.connection.execute(
                sql.SQL("DELETE FROM {} AS t USING {} AS s WHERE {}").format(
                    identifier(table.name.schema, table.name.table), stage.keys, same_key(table)
                )
            )
            return cursor.rowcount

    async def keep(self, table: Table, keys: Iterable[Key], why: str) -> int:
        """Copy rows as they are into ``_replicator.kept``, before they are overwritten or deleted; gives how many.

        Each value as its text: as jsonb, some values would change, and some be refused.
        """
        stage = self._stages[table.name]
        names = [column.name for column in table.columns]
        with refusing():
            await stage.load_keys(self.connection, keys)
            cursor = await self.connection.execute(
                sql.SQL(
                    "INSERT INTO _replicator.kept (why, table_schema, table_name, row_key, row_as_it_was) "
                    "SELECT {}, {}, {}, jsonb_build_array({}), "
                    "jsonb_object(ARRAY[{}]::text[], ARRAY[{}]::text[]) FROM {} AS s JOIN {} AS t ON {}"
                ).format(
                    sql.Literal(why),
                    sql.Literal(table.name.schema),
                    sql.Literal(table.name.table),
                    comma([shown(identifier("t", each.name), each) for each in table.key_columns]),
                    sql.SQL(", ").join(map(sql.Literal, names)),
                    comma([shown(identifier("t", each.name), each) for each in table.columns]),
                    stage.keys,
                    identifier(table.name.schema, table.name.table),
                    same_key(table),
                )
            )
            return cursor.rowcount

    async def clear(self, table: Table) -> int:
        """Delete every row."""
        with refusing():
            cursor = await self.connection.execute(
                sql.SQL("DELETE FROM {}").format(identifier(table.name.schema, table.name.table))
            )
            return cursor.rowcount

    async def rows_up_to(self, table: Table, most: int) -> int:
        """How many rows there are, but not more than ``most``."""
        with translated():
            cursor = await self.connection.execute(
                sql.SQL("SELECT count(*) FROM (SELECT FROM {} LIMIT {}) AS found").format(
                    identifier(table.name.schema, table.name.table), most
                )
            )
            row = await cursor.fetchone()
            return int(row[0]) if row else 0

    async def all_keys(self, table: Table) -> list[Key]:
        """Every key."""
        with refusing():
            cursor = await self.connection.execute(
                sql.SQL("SELECT {} FROM {}").format(
                    key_of_row(table, None), identifier(table.name.schema, table.name.table)
                )
            )
            return [read_key(table, row) async for row in cursor]

    async def present(self, table: Table, keys: Iterable[Key]) -> list[Key]:
        """Which of these keys are there."""
        stage = self._stages[table.name]
        with refusing():
            await stage.load_keys(self.connection, keys)
            cursor = await self.connection.execute(
                sql.SQL("SELECT {} FROM {} AS s JOIN {} AS t ON {}").format(
                    key_of_row(table, "s"),
                    stage.keys,
                    identifier(table.name.schema, table.name.table),
                    same_key(table),
                )
            )
            return [read_key(table, row) async for row in cursor]

    async def children_of(
        self,
        foreign_key: ForeignKey,
        child: Table,
        parent: Table,
        keys: Iterable[Key],
        *,
        leaving: Iterable[Key] = (),
        deleted: bool = False,
    ) -> list[Key]:
        """Which of these parent keys some child row still refers to.

        :param leaving: child keys that go as well, and so are not left behind.
        :param deleted: the parents are gone already; without it, a parent that is not there has no children. A foreign
            key to other columns than the primary key says nothing about parents that are gone.
        """
        stage = self._stages[parent.name]
        children = self._stages.get(child.name, stage)  # of a table that nobody migrates, no keys are given
        to_key = set(foreign_key.parent_columns) <= set(parent.key)
        if deleted and not to_key:
            return []
        on = refers(foreign_key, "c", "s" if deleted else "p")
        join = sql.SQL("") if deleted else sql.SQL("JOIN {} AS p ON {} ").format(
            identifier(parent.name.schema, parent.name.table), same_key(parent, "p")
        )  # fmt: skip
        leaving = list(leaving)
        if leaving or child.name == parent.name:  # of one table, all these keys leave
            on += sql.SQL(" AND NOT EXISTS (SELECT FROM {} AS k WHERE {})").format(
                children.keys,
                all_equal("k", "c", child.key_columns),
            )
        if leaving and child.name != parent.name:
            with refusing():
                await children.load_keys(self.connection, leaving)
        with refusing():
            await stage.load_keys(self.connection, keys)
            cursor = await self.connection.execute(
                sql.SQL("SELECT {} FROM {} AS s {}WHERE EXISTS (SELECT FROM {} AS c WHERE {})").format(
                    key_of_row(parent, "s"),
                    stage.keys,
                    join,
                    identifier(child.name.schema, child.name.table),
                    on,
                )
            )
            return [read_key(parent, row) async for row in cursor]

    async def orphans(self, foreign_key: ForeignKey, child: Table, keys: Iterable[Key]) -> list[Key]:
        """Which of these child keys refer to a parent that is not there."""
        stage = self._stages[child.name]
        on = refers(foreign_key, "c", "p")
        not_null = sql.SQL(" AND ").join([
            sql.SQL("c.{} IS NOT NULL").format(identifier(name)) for name in foreign_key.columns
        ])  # fmt: skip
        with refusing():
            await stage.load_keys(self.connection, keys)
            cursor = await self.connection.execute(
                sql.SQL(
                    "SELECT {} FROM {} AS s JOIN {} AS c ON {} WHERE {} AND NOT EXISTS (SELECT FROM {} AS p WHERE {})"
                ).format(
                    key_of_row(child, "s"),
                    stage.keys,
                    identifier(child.name.schema, child.name.table),
                    same_key(child, "c"),
                    not_null,
                    identifier(foreign_key.parent.schema, foreign_key.parent.table),
                    on,
                )
            )
            return [read_key(child, row) async for row in cursor]

    async def _write(self, table: Table, rows: Iterable[TargetRow], *, absent_only: bool) -> int:
        written = 0
        stage = self._stages[table.name]
        with refusing():
            for columns, group in by_columns(rows).items():
                await stage.load(self.connection, columns, group)
                await reach(Failpoint.STAGED)
                emptied = self.aside.get(table.name)
                statements = [insert(table, stage, columns, absent_only=absent_only, replacing=emptied)]
                if emptied is not None:
                    statements.append(insert(table, stage, columns, absent_only=absent_only, aside=False))
                for statement in statements:
                    written += (await self.connection.execute(statement)).rowcount
        return written
