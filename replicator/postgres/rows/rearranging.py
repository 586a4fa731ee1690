"""What a TargetWriter does to rows so that others can be written or deleted: it makes room for them."""

from collections.abc import Iterable, Mapping

from psycopg import sql

from replicator.core.tables import Key, Table
from replicator.mapping.derive import TargetRow
from replicator.postgres.catalog.operators import all_equal, equal
from replicator.postgres.rows.halving import Halving
from replicator.postgres.rows.inserting import by_columns, insert, left_out, same_key
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import beside_parameters, comma, identifier, translated


async def without_rows(writer: TargetWriter, table: Table, columns: tuple[str, ...]) -> None:
    """Write and delete nothing: raises, as what it is, an error that no row can explain, for it needs none."""
    stage = writer.stage(table)
    delete = sql.SQL("DELETE FROM {} AS t USING {} AS s WHERE {}").format(_name(table), stage.keys, same_key(table))
    with translated():
        await stage.load(writer.connection, columns, ())
        # Not prepared: a plan that is kept would not notice that the table has changed.
        await writer.connection.execute(insert(table, stage, columns, absent_only=False), prepare=False)
        await stage.load_keys(writer.connection, ())
        await writer.connection.execute(delete, prepare=False)


async def possible_keys(writer: TargetWriter, table: Table, keys: Iterable[Key]) -> list[Key]:
    """The keys without those that no row of the table can have: they cannot even be staged.

    A text may be too long, or a domain may refuse it. A row with such a key was never written, nor need it be deleted.
    """
    listed = list(keys)
    search: Halving[Key] = Halving(writer.connection, table, lambda part: _staged(writer, table, part))
    if not listed or await search.whole(listed):
        return listed
    await search.halves(listed)
    impossible = {key for key, _ in search.refused}
    return [key for key in listed if key not in impossible]


async def _staged(writer: TargetWriter, table: Table, keys: Iterable[Key]) -> None:
    with refusing():
        await writer.stage(table).load_keys(writer.connection, keys)


async def detach(writer: TargetWriter, table: Table, columns: Iterable[str], keys: Iterable[Key]) -> None:
    """Set these columns to NULL, so that the rows with these keys refer to no parent through them."""
    stage, names = writer.stage(table), [identifier(name) for name in columns]
    with refusing():
        await stage.load_keys(writer.connection, keys)
        await writer.connection.execute(
            sql.SQL("UPDATE {} AS t SET {} FROM {} AS s WHERE {} AND NOT ({})").format(
                _name(table),
                comma([sql.SQL("{} = NULL").format(name) for name in names]),
                stage.keys,
                same_key(table),
                sql.SQL(" AND ").join([sql.SQL("t.{} IS NULL").format(name) for name in names]),
            )
        )


async def move(writer: TargetWriter, table: Table, keys: Mapping[Key, Key]) -> None:
    """Give rows another key: the old one by the new one."""
    names = [beside_parameters(identifier(name)) for name in table.key]
    statement = sql.SQL("UPDATE {} SET {} WHERE {}").format(
        beside_parameters(_name(table)),
        comma([sql.SQL("{} = {}").format(*pair) for pair in zip(names, _key_values(table), strict=True)]),
        _has_key(table),
    )
    async with writer.connection.cursor() as cursor:
        with refusing():
            await cursor.executemany(statement, [(*new, *old) for new, old in keys.items()])


async def put_aside(
    writer: TargetWriter, table: Table, keys: Iterable[Key], moved: Mapping[Key, Key], emptied: frozenset[str]
) -> None:
    """Keep rows as they are, to be written in their place: of these keys; and of old keys, under the new ones.

    :param emptied: the columns that what is written does not take from them at once: ``give_back`` sets them.
    """
    stage, names = writer.stage(table), [identifier(each.name) for each in table.columns if not each.generated]
    others = [identifier(each.name) for each in table.columns if not each.generated and each.name not in table.key]
    with refusing():
        await stage.aside.empty(writer.connection)
        await stage.load_keys(writer.connection, keys)
        await writer.connection.execute(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} AS t JOIN {} AS s ON {}").format(
                stage.aside.name,
                comma(names),
                comma([sql.SQL("t.{}").format(each) for each in names]),
                _name(table),
                stage.keys,
                same_key(table),
            )
        )
        if moved:
            statement = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} WHERE {}").format(
                stage.aside.name,
                beside_parameters(comma([*(identifier(name) for name in table.key), *others])),
                comma([*_key_values(table), *(sql.SQL("{}").format(beside_parameters(each)) for each in others)]),
                beside_parameters(_name(table)),
                _has_key(table),
            )
            async with writer.connection.cursor() as cursor:
                await cursor.executemany(statement, [(*new, *old) for new, old in moved.items()])
    writer.aside[table.name] = emptied


async def give_back(writer: TargetWriter, table: Table, columns: Iterable[str], keys: Iterable[Key]) -> None:
    """Set these columns of the rows with these keys as they are in the rows that are kept aside."""
    stage, names = writer.stage(table), [identifier(name) for name in columns]
    if not names:
        return
    with refusing():
        await stage.load_keys(writer.connection, keys)
        await writer.connection.execute(
            sql.SQL("UPDATE {} AS t SET {} FROM {} AS s JOIN {} AS a ON {} WHERE {}").format(
                _name(table),
                comma([sql.SQL("{0} = a.{0}").format(name) for name in names]),
                stage.keys,
                stage.aside.name,
                all_equal("a", "s", table.key_columns),
                same_key(table),
            )
        )


def lacking(table: Table, rows: Iterable[TargetRow]) -> list[TargetRow]:
    """The rows that leave out columns which somebody may have written."""
    return [row for columns, group in by_columns(rows).items() if left_out(table, columns) for row in group]


def _key_values(table: Table) -> list[sql.Composed]:
    columns = [table.by_name[name] for name in table.key]
    return [sql.SQL("%s::{}").format(beside_parameters(sql.SQL(each.bare_type))) for each in columns]


def _has_key(table: Table) -> sql.Composed:
    columns = [table.by_name[name] for name in table.key]
    return sql.SQL(" AND ").join([
        equal(beside_parameters(identifier(each.name)), value, each.operators)
        for each, value in zip(columns, _key_values(table), strict=True)
    ])  # fmt: skip


def _name(table: Table) -> sql.Identifier:
    return identifier(table.name.schema, table.name.table)
