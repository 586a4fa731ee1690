"""Reads source rows: by key range, by keys, or all; tables and queries alike."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, suppress

from psycopg import sql

from replicator.core.changes import Image
from replicator.core.tables import Column, Key, Row, Table, printed_key
from replicator.errors import RowError
from replicator.mapping.derive import UnreadableRow
from replicator.mapping.plan import Source
from replicator.postgres.catalog.operators import equal
from replicator.postgres.rows.keys import key_of_row, read_key
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.selecting import (
    among,
    apart,
    having_key,
    in_range,
    key_names,
    selected,
    source_as,
    with_forms,
)
from replicator.postgres.rows.streaming import Texts, grouped, streamed
from replicator.postgres.session.connect import Connection, beside_parameters, comma, identifier, translated
from replicator.values import PARSERS

KEYS_AT_ONCE = 1_000


class Doubled(tuple[str | None, ...]):
    """The first of several rows that a query returns for one key: which of them counts, nobody can say."""

    __slots__ = ()


def parse_row(columns: Sequence[Column], texts: Sequence[str | None]) -> Row:
    """A row as transforms see it, from the text that Postgres printed."""
    return {
        column.name: None if text is None else PARSERS[column.kind](text)
        for column, text in zip(columns, texts, strict=True)
    }


async def read_range(
    connection: Connection, source: Source, lower: Key | None, upper: Key | None
) -> list[tuple[Key, Row]]:
    """The rows with ``lower < key <= upper``; None is no bound. ``connection`` gives text."""
    with translated():
        query, parameters = in_range(source, lower, upper, selected(source))
        cursor = await connection.execute(query, parameters)
        return [(key, _row(source, texts)) for key, texts in _keyed(source, await cursor.fetchall())]


async def range_groups(
    connection: Connection, source: Source, lower: Key | None, upper: Key | None, limit: int | None = None
) -> AsyncGenerator[tuple[list[tuple[Key, Row]], int, bool]]:
    """The same in key order, in groups of bounded size, each with its size and whether it is the last.

    The connection is busy until the last group is there. To be closed when it is left early.
    """
    query, parameters = in_range(source, lower, upper, selected(source))
    query += sql.SQL(" ORDER BY {}").format(key_names(source))
    if limit is not None:
        query += sql.SQL(" LIMIT {}").format(limit)
    reading = _once(source, streamed(connection, query, parameters, refusing))
    async with aclosing(reading) as rows, aclosing(grouped(rows)) as groups:
        async for group, size, last in groups:
            yield [(key, _row(source, texts)) for key, texts in _keyed(source, group)], size, last


async def key_groups(
    connection: Connection, source: Source, keys: Iterable[Key]
) -> AsyncGenerator[tuple[dict[Key, Row | None], int]]:
    """The rows with these keys in such groups, each with its size; the keys without a row, with None, are in the last.

    :raises ReplicatorError: as any read.
    """
    missing: dict[Key, Row | None] = dict.fromkeys(keys)
    reading = _with_keys(connection, source, list(missing), refusing)
    async with aclosing(reading) as rows, aclosing(grouped(rows)) as groups:
        async for group, size, last in groups:
            found: dict[Key, Row | None] = {
                key: _row(source, texts) for key, texts in _keyed(source, group) if missing.pop(key, key) is None
            }
            yield found | missing if last else found, size


async def read_alone(connection: Connection, source: Source, key: Key) -> Row | None:
    """The row with this key; None when there is none. Raises RowError when it cannot be read.

    Of its table, an index leads to it: no condition of a query is tried on other rows on the way, as a scan does.
    """
    query = sql.SQL("SELECT {} FROM {} WHERE {}").format(comma(selected(source)), source_as(source), having_key(source))
    async with connection.transaction(force_rollback=True):  # with it go the settings
        with translated():
            for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin"):
                await connection.execute(f"SET LOCAL enable_{way} = off".encode())
        async with aclosing(streamed(connection, query, list(key), refusing)) as rows:
            found = [row for _, row in _keyed(source, [texts async for texts in rows])]
    return _row(source, found[0] if len(found) == 1 else Doubled(found[0])) if found else None


async def read_images(
    connection: Connection, table: Table, keys: Iterable[Key]
) -> tuple[dict[Key, Image], frozenset[Key]]:
    """The rows of a table, each as its text; and the keys of rows that cannot be read, for a generated column fails."""
    listed = list(keys)
    try:
        async with connection.transaction():
            return await _images(connection, table, listed), frozenset()
    except RowError:
        if len(listed) == 1:
            return {}, frozenset(listed)
    middle = len(listed) // 2
    halves = [await read_images(connection, table, half) for half in (listed[:middle], listed[middle:])]
    return halves[0][0] | halves[1][0], halves[0][1] | halves[1][1]


async def _images(connection: Connection, table: Table, keys: list[Key]) -> dict[Key, Image]:
    source = Source(
        name=table.name.table, table=table, query=None, columns=table.columns, key=table.key, transforms=()
    )  # fmt: skip
    found = [texts async for texts in _with_keys(connection, source, keys, refusing)]
    names = [each.name for each in table.columns]
    return {key: dict(zip(names, texts, strict=True)) for key, texts in _keyed(source, found)}


async def keys_where(connection: Connection, table: Table, texts: Mapping[str, str]) -> list[Key]:
    """The keys of a table's rows in which these columns have these values; none have what is no value of a column."""
    # As parameters: what stands in a statement is in pg_stat_activity, and may be in the server's log.
    same = sql.SQL(" AND ").join(
        equal(
            beside_parameters(identifier(name)),
            sql.SQL("%s::pg_catalog.text::{}").format(beside_parameters(sql.SQL(table.by_name[name].type))),
            table.by_name[name].operators,
        )
        for name in texts
    )
    query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        beside_parameters(key_of_row(table, None)),
        beside_parameters(identifier(table.name.schema, table.name.table)),
        same,
    )
    with suppress(RowError), translated():
        async with connection.transaction():
            cursor = await connection.execute(query, list(texts.values()))
            return [read_key(table, row) for row in await cursor.fetchall()]
    return []


async def without_rows(connection: Connection, source: Source) -> None:
    """Read nothing: raises an error that no row can explain, for it needs none."""
    query = sql.SQL("SELECT {} FROM {} WHERE false").format(comma(selected(source)), source_as(source))
    with translated():
        await connection.execute(query, [])


async def _with_keys(
    connection: Connection,
    source: Source,
    keys: Iterable[Key],
    edge: Callable[[], AbstractContextManager[None]] = translated,
) -> AsyncGenerator[Texts]:
    """Streamed, as ``selected`` has them: to be closed when it is left early."""
    wanted = list(keys)
    for start in range(0, len(wanted), KEYS_AT_ONCE):
        part = wanted[start : start + KEYS_AT_ONCE]
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
            comma(selected(source)), source_as(source), among(source, source.key)
        )
        if source.query is not None:  # so that rows with one key come next to each other
            query += sql.SQL(" ORDER BY {}").format(key_names(source))
        columns = [[key[position] for key in part] for position in range(len(source.key))]
        async with aclosing(_once(source, streamed(connection, query, columns, edge))) as rows:
            async for texts in rows:
                yield texts


async def keys_with(connection: Connection, source: Source, columns: Sequence[str], values: Iterable[Key]) -> set[Key]:
    """The keys of the rows in which these columns of the key have one of these lists of values."""
    listed, found = list(values), set[Key]()
    for start in range(0, len(listed), KEYS_AT_ONCE):
        part = listed[start : start + KEYS_AT_ONCE]
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
            comma(with_forms(source, source.key)), source_as(source), among(source, columns)
        )
        with translated():
            cursor = await connection.execute(query, [list(each) for each in zip(*part, strict=True)])
            keys = [_printed_key(source, source.key, texts) async for texts in cursor]
        found.update(key for key in keys if key is not None)
    return found


async def next_keys(
    connection: Connection, source: Source, most: int, lower: Key | None, upper: Key | None = None
) -> list[Key]:
    """The first keys of the rows with ``lower < key <= upper``, in their order. Raises RowError as ``next_bound``."""
    with refusing():
        query, parameters = in_range(source, lower, upper, with_forms(source, source.key))
        query += sql.SQL(" ORDER BY {} LIMIT {}").format(key_names(source), most)
        cursor = await connection.execute(query, parameters)
        found = [_printed_key(source, source.key, texts) async for texts in cursor]
    return [key for key in found if key is not None]


async def next_bound(connection: Connection, source: Source, lower: Key | None, rows: int) -> Key | None:
    """The key that ends a chunk of so many rows after ``lower``; None when fewer are left.

    :raises RowError: the query fails for a row.
    """
    with refusing():
        query, parameters = in_range(source, lower, None, with_forms(source, source.key))
        query += sql.SQL(" ORDER BY {} OFFSET {} LIMIT 1").format(key_names(source), rows - 1)
        cursor = await connection.execute(query, parameters)
        texts = await cursor.fetchone()
    return None if texts is None else _printed_key(source, source.key, texts)


async def estimate_rows(connection: Connection, source: Source) -> int:
    """About how many rows there are: the planner's estimate, or a count where there is none yet."""
    with refusing():
        if source.table is not None:
            cursor = await connection.execute(
                "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint, bool_or(c.reltuples < 0) "
                "FROM pg_partition_tree(%(t)s::regclass) p "
                "RIGHT JOIN pg_class c ON c.oid = p.relid WHERE c.oid = coalesce(p.relid, %(t)s::regclass) "
                "AND (p.isleaf OR c.oid = %(t)s::regclass AND c.relkind = 'r')",
                {"t": identifier(source.table.name.schema, source.table.name.table).as_string(connection)},
            )
            row = await cursor.fetchone()
            if row is not None and row[1] == "f":
                return int(row[0])
        cursor = await connection.execute(sql.SQL("SELECT count(*) FROM {}").format(source_as(source)), [])
        row = await cursor.fetchone()
        return int(row[0]) if row else 0


def _keyed(source: Source, rows: Iterable[Sequence[str | None]]) -> Iterator[tuple[Key, Sequence[str | None]]]:
    """Rows as ``selected`` has them, each with its key; one whose key has a NULL is nobody's."""
    names = [column.name for column in source.columns]
    for texts in rows:
        key = _printed_key(source, names, texts)
        if key is not None:
            yield key, texts if isinstance(texts, Doubled) else texts[: len(names)]


def _printed_key(source: Source, names: Sequence[str], texts: Sequence[str | None]) -> Key | None:
    """The key in a row that was selected ``with_forms``."""
    places = {name: place for place, name in enumerate(names)}
    places.update({name: len(names) + place for place, name in enumerate(apart(source))})
    return printed_key([texts[places[name]] for name in source.key], source.key, source.by_name)


async def _once(source: Source, rows: AsyncGenerator[Texts]) -> AsyncGenerator[Texts]:
    """Rows that come in the order of their keys; of a query, those with one key as one that is ``Doubled``.

    A table's cannot be. A query's may become so at any time: a join to a table of which two rows match.
    """
    names = [column.name for column in source.columns]
    before: Texts | None = None
    known: Key | None = None
    async with aclosing(rows):
        async for texts in rows:
            if source.query is None:
                yield texts
                continue
            key = _printed_key(source, names, texts)
            if before is not None and key is not None and key == known:
                before = Doubled(before)
                continue
            if before is not None:
                yield before
            before, known = texts, key
        if before is not None:
            yield before


def _row(source: Source, texts: Sequence[str | None]) -> Row:
    if isinstance(texts, Doubled):
        return UnreadableRow("the query returns several rows for it")
    return parse_row(source.columns, texts)
