"""Runs SQL transforms on rows that are at hand: they go to the server as text, and what its SELECT returns comes back.

Nothing is read again, so what comes of a row is exact at the position of the stream that the row is from. The server is
that of the target: its types are what the SELECT's values are for.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from psycopg import sql
from psycopg.pq import TransactionStatus

from replicator.core.pace import Pace
from replicator.core.selects import ReadColumn, Select, SelectedKey
from replicator.core.tables import Column, Key, Row
from replicator.errors import DatabaseError, RowError, ShapeError, TransformError
from replicator.mapping.derive import TargetRow, UnreadableRow, key_of_result, target_rows, unreadable
from replicator.mapping.plan import PlannedTransform, Source
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.texts import read
from replicator.postgres.session.connect import Connection, beside_parameters, comma, give_text, identifier, translated
from replicator.values import to_text

Texts = tuple[str | None, ...]
Found = dict[Key, list[TargetRow] | TransformError]
Returned = dict[Key, list[Texts] | RowError]
Run = Callable[[Sequence[tuple[Key, Texts]]], Awaitable[dict[Key, list[Texts]]]]

STATEMENT = """
    SELECT t.n, {values} FROM {images} AS t({names}) CROSS JOIN LATERAL (SELECT {typed}) AS old CROSS JOIN LATERAL (
    {text}
    ) AS {called}
"""


async def select_rows(
    connection: Connection, transform: PlannedTransform, source: Source, rows: Mapping[Key, Row]
) -> Found:
    """What the SELECT of an SQL transform returns for rows.

    :raises DatabaseError: it fails whatever the row.
    """
    select = transform.function
    if not isinstance(select, Select):
        raise TypeError(f"{transform.name} is no SQL transform")
    found: Found = {}
    images: list[tuple[Key, Texts]] = []
    for key, row in rows.items():
        if isinstance(row, UnreadableRow):
            found[key] = unreadable(source, key, row)
        else:
            images.append((key, _texts(select.reads, source, row)))
    keys = await select_keys(connection, transform, source, [key for key, _ in images])
    returned = await _returned(connection, transform, row_statement(transform, source), select.reads, images)
    pace = Pace()
    for key, each in returned.items():
        await pace.step()
        computed = keys.get(key)
        if isinstance(each, RowError):
            found[key] = _failed(transform, source, key, each)
        elif isinstance(computed, TransformError) and each:
            found[key] = computed
        else:
            known = computed if isinstance(computed, tuple) else None
            found[key] = _target_rows(transform, source, key, known, each)
    return {key: found[key] for key in rows}


def _target_rows(
    transform: PlannedTransform, source: Source, key: Key, computed: Key | None, returned: Sequence[Texts]
) -> list[TargetRow] | TransformError:
    gives = transform.function.gives if isinstance(transform.function, Select) else ()
    try:
        return target_rows(
            transform, source, key, computed, [dict(zip(gives, texts, strict=True)) for texts in returned]
        )
    except TransformError as error:
        return error


async def select_keys(
    connection: Connection, transform: PlannedTransform, source: Source, keys: Iterable[Key]
) -> dict[Key, Key | TransformError]:
    """The target keys that ``key=`` returns for source keys, as it spells them; none where the transform has none."""
    selected = transform.key
    if not isinstance(selected, SelectedKey):
        return {}
    places = [source.key.index(each.name) for each in selected.reads]
    images: list[tuple[Key, Texts]] = [(key, tuple(key[place] for place in places)) for key in keys]
    returned = await _returned(connection, transform, key_statement(transform, source), selected.reads, images)
    return {key: _selected_key(transform, source, key, each) for key, each in returned.items()}


def _selected_key(
    transform: PlannedTransform, source: Source, key: Key, returned: list[Texts] | RowError
) -> Key | TransformError:
    if isinstance(returned, RowError):
        return _failed(transform, source, key, returned)
    if len(returned) != 1:
        rows = len(returned)
        return ShapeError(f"The key= of the transform {transform.name} returns {rows} rows for one source key.")
    try:
        return key_of_result(transform, returned[0], key)
    except TransformError as error:
        return error


def _failed(transform: PlannedTransform, source: Source, key: Key, error: RowError) -> TransformError:
    return TransformError(
        f"The SQL of the transform {transform.name} fails for {source.name} {list(key)}: {error.problem}",
        "Mend the transform or the row.",
    )


# ---- the statements


def row_statement(transform: PlannedTransform, source: Source) -> sql.Composed:
    """The SELECT over row images: its parameters are their numbers, and the texts of each column that it reads."""
    select = transform.function
    if not isinstance(select, Select):
        raise TypeError(f"{transform.name} is no SQL transform")
    by_name = transform.target.by_name
    values = [assigned(identifier("new", name), by_name[name]) for name in select.gives]
    return _statement(values, select.reads, source, select.text, sql.SQL("new"))


def key_statement(transform: PlannedTransform, source: Source) -> sql.Composed:
    """The same for ``key=``, over source keys."""
    selected = transform.key
    if not isinstance(selected, SelectedKey):
        raise TypeError(f"{transform.name} has no key= in SQL")
    columns = transform.target.key_columns
    names = [f"k{place}" for place in range(len(columns))]
    values = [assigned(identifier("k", name), each) for name, each in zip(names, columns, strict=True)]
    called = sql.SQL("k({})").format(comma([identifier(name) for name in names]))
    return _statement(values, selected.reads, source, f"SELECT {selected.text}", called)


def assigned(value: sql.Composable, column: Column) -> sql.Composed:
    """A value as an INSERT would assign it to the column, but for the modifier: that cuts or rounds when it is written.

    ``postgres.trying.binding`` has asked whether it can be assigned at all: a cast alone would do more.
    """
    return sql.SQL("{}::{}").format(value, sql.SQL(column.bare_type))


def image(texts: Sequence[sql.Composable], reads: Sequence[ReadColumn], source: Source) -> sql.Composed:
    """A select list: the columns that ``old`` has, of the source's types.

    Of texts, they are read as the type's input function does it: a cast from text to regclass, xml or "char" does not.
    """
    return comma([
        sql.SQL("{}{} AS {}").format(
            text if each.delimiter else read(text, source.by_name[each.name]),
            sql.SQL(f" COLLATE {each.collation}" if each.collation else ""),
            identifier(each.name),
        )
        for text, each in zip(texts, reads, strict=True)
    ])  # fmt: skip


def image_columns(columns: Iterable[Column], collated: Mapping[str, str]) -> sql.Composed:
    """The columns of a table that is shaped as ``old``: of the types without their modifiers, as ``image`` has them.

    :param collated: by column, the collation, quoted for SQL.
    """
    return comma([
        sql.SQL("{} {}{}").format(
            identifier(each.name),
            sql.SQL(each.bare_type),
            sql.SQL(f" COLLATE {collated[each.name]}" if each.name in collated else ""),
        )
        for each in columns
    ])  # fmt: skip


def _statement(
    values: list[sql.Composed], reads: Sequence[ReadColumn], source: Source, text: str, called: sql.Composable
) -> sql.Composed:
    names = [identifier(f"c{place}") for place in range(len(reads))]
    arrays = [
        f"%s::{source.by_name[each.name].bare_type.replace('%', '%%')}[]" if each.delimiter else "%s::pg_catalog.text[]"
        for each in reads
    ]
    return sql.SQL(STATEMENT).format(
        values=beside_parameters(comma(values)),
        images=sql.SQL(f"unnest({', '.join(['%s::pg_catalog.int4[]', *arrays])})"),
        names=comma([identifier("n"), *names]),
        typed=beside_parameters(image([identifier("t", f"c{place}") for place in range(len(reads))], reads, source)),
        text=beside_parameters(sql.SQL(text)),
        called=called,
    )


def _texts(reads: Sequence[ReadColumn], source: Source, row: Row) -> Texts:
    return tuple(to_text(row[each.name], source.by_name[each.name].kind) for each in reads)


# ---- running them


async def try_statements(connection: Connection, transform: PlannedTransform, source: Source) -> None:
    """Run both over no row. Raises ReplicatorError when the server refuses them."""
    with translated():
        await _run(connection, row_statement(transform, source), _reads(transform.function), [])
        if isinstance(transform.key, SelectedKey):
            await _run(connection, key_statement(transform, source), transform.key.reads, [])


def _reads(of: object) -> Sequence[ReadColumn]:
    return of.reads if isinstance(of, Select | SelectedKey) else ()


async def _returned(
    connection: Connection,
    transform: PlannedTransform,
    statement: sql.Composed,
    reads: Sequence[ReadColumn],
    images: list[tuple[Key, Texts]],
) -> Returned:
    async def run(part: Sequence[tuple[Key, Texts]]) -> dict[Key, list[Texts]]:
        return await _run(connection, statement, reads, part)

    if not images:
        return {}
    return await _halved(connection, transform, run, images, first=True)


async def _halved(
    connection: Connection,
    transform: PlannedTransform,
    run: Run,
    images: Sequence[tuple[Key, Texts]],
    *,
    first: bool = False,
) -> Returned:
    """Halved until the row for which the SELECT fails stands alone."""
    try:
        return dict(await _apart(connection, run, images))
    except RowError as error:
        if first:
            await _fails_without_rows(connection, transform, run)
        if len(images) == 1:
            return {images[0][0]: error}
    middle = len(images) // 2
    return {
        **await _halved(connection, transform, run, images[:middle]),
        **await _halved(connection, transform, run, images[middle:]),
    }


async def _fails_without_rows(connection: Connection, transform: PlannedTransform, run: Run) -> None:
    """Raise DatabaseError where it does: a function is gone, or a privilege. Else every row would be in quarantine."""
    try:
        await _apart(connection, run, [])
    except RowError as error:
        raise DatabaseError(
            f"The SQL of the transform {transform.name} fails, whatever the row: {error.problem}",
            "Give back what it calls, or mend it, then start again: it goes on where it stopped.",
            error.sqlstate,
        ) from None


async def _apart(connection: Connection, run: Run, images: Sequence[tuple[Key, Texts]]) -> dict[Key, list[Texts]]:
    """Whatever transaction is open goes on after an error; where there is none, none is begun."""
    with refusing():
        if connection.info.transaction_status == TransactionStatus.IDLE:
            return await run(images)
        async with connection.transaction():
            return await run(images)


def _array(texts: Iterable[str | None], delimiter: str) -> str:
    """The literal of an array. Untyped, it is read as what the statement casts it to."""
    quoted = ("NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts)
    return "{" + delimiter.join(quoted) + "}"


async def _run(
    connection: Connection, statement: sql.Composed, reads: Sequence[ReadColumn], images: Sequence[tuple[Key, Texts]]
) -> dict[Key, list[Texts]]:
    columns = [_array([texts[place] for _, texts in images], each.delimiter or ",") for place, each in enumerate(reads)]
    found: dict[Key, list[Texts]] = {key: [] for key, _ in images}
    async with connection.cursor() as cursor:
        give_text(cursor)
        await cursor.execute(statement, [list(range(len(images))), *columns])
        async for number, *texts in cursor:
            found[images[int(number)][0]].append(tuple(texts))
    return found
