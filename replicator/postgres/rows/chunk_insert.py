"""One statement that copies a chunk by an SQL transform, in one database: no row passes through this program."""

from collections.abc import Iterable, Sequence

from psycopg import sql

from replicator.core.selects import Select, SelectedKey
from replicator.core.tables import Column, Key, Table
from replicator.mapping.plan import PlannedTransform, Source
from replicator.postgres.catalog.operators import all_equal
from replicator.postgres.control.ownership import same_database
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.selecting import among, in_range
from replicator.postgres.rows.sql_derivation import assigned
from replicator.postgres.session.connect import Connection, beside_parameters, comma, identifier, translated

# What is written is counted, and if it is less than what is given: whether that is because a key is given twice.
STATEMENT = """
    WITH given AS MATERIALIZED (
        SELECT {values}, {agree} AS replicator_agrees
        FROM ({rows}) AS old CROSS JOIN LATERAL (
            {select}
        ) AS new CROSS JOIN LATERAL (SELECT {key}) AS k({key_names})
    ), written AS (
        INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM given
        ON CONFLICT ({key_columns}) DO NOTHING RETURNING 1
    )
    SELECT coalesce(bool_and(g.replicator_agrees), true), CASE WHEN count(*) > (SELECT count(*) FROM written)
        THEN EXISTS (SELECT FROM given GROUP BY {key_columns} HAVING count(*) > 1) ELSE false END
    FROM given AS g
"""

# On average by the statistics, and in some rows by themselves: a table that is new has no statistics. The sizes are
# those of values as they are stored, so none is fetched from out of line.
BYTES_A_ROW = """
    SELECT greatest(
        (SELECT sum(pg_table_size(c.oid)) / nullif(sum(greatest(c.reltuples, 0)), 0) FROM pg_class c
         WHERE c.relkind = 'r' AND (c.oid = {name}::regclass
             OR c.oid IN (SELECT relid FROM pg_partition_tree({name}::regclass)))),
        (SELECT avg({sizes}) FROM (SELECT * FROM {table} LIMIT 1000) AS q), 0
    )::int8
"""


def insertable(source: Source) -> bool:
    """Whether chunks of a source can be written so: key by key it is known what each row gives, without asking.

    A key must have one spelling: from another one than its form, ``key=`` might make another target key.
    """
    return (
        source.table is not None
        and all(_one_spelling(source.by_name[name]) for name in source.key)
        and all(
            isinstance(each.function, Select) and isinstance(each.key, SelectedKey) and not each.remembers
            for each in source.transforms
        )
    )


def _one_spelling(column: Column) -> bool:
    return not (column.form.asked or column.form.spelt_apart or column.form.prints_apart or column.form.problem)


async def together(reader: Connection, writer: Connection) -> bool:
    """Whether both connections lead to one database, as one role: what one may read, the other may."""
    roles = []
    for each in (reader, writer):
        with translated():
            cursor = await each.execute("SELECT current_user::text")
            roles.append(await cursor.fetchone())
    return roles[0] == roles[1] and await same_database(reader, writer)


async def bytes_a_row(connection: Connection, table: Table) -> int:
    """About what a row takes on disk, its out-of-line values too; 0 where there is none."""
    named = identifier(table.name.schema, table.name.table)
    sizes = sql.SQL(" + ").join([
        sql.SQL("coalesce(pg_column_size({}), 0)").format(identifier("q", each.name)) for each in table.columns
    ])  # fmt: skip
    query = sql.SQL(BYTES_A_ROW).format(name=sql.Literal(named.as_string(connection)), sizes=sizes, table=named)
    with translated():
        cursor = await connection.execute(query)
        (found,) = await cursor.fetchone() or (0,)
    return int(found)


async def count_rows(connection: Connection, source: Source, lower: Key | None, upper: Key | None) -> int:
    """How many rows a range has."""
    rows, parameters = in_range(source, lower, upper, _columns(source.key))
    with translated():
        cursor = await connection.execute(sql.SQL("SELECT count(*) FROM ({}) AS q").format(rows), parameters)
        (found,) = await cursor.fetchone() or (0,)
    return int(found)


async def insert_range(
    connection: Connection,
    transform: PlannedTransform,
    source: Source,
    lower: Key | None,
    upper: Key | None,
    touched: Sequence[Key],
) -> bool:
    """Insert what the rows with ``lower < key <= upper`` give, where it is absent; gives whether that was all right.

    If not, two rows give one target key, or one another than its ``key=``: the caller undoes it, and looks at the rows.

    :param touched: source keys that are left out.
    :raises RowError: Postgres refuses a row.
    """
    query, parameters = statement(transform, source, lower, upper, touched)
    with refusing():
        cursor = await connection.execute(query, parameters, prepare=False)  # planned for this range
        agrees, twice = await cursor.fetchone() or (True, False)
    return bool(agrees) and not twice


def statement(
    transform: PlannedTransform, source: Source, lower: Key | None, upper: Key | None, touched: Sequence[Key]
) -> tuple[sql.Composed, list[object]]:
    """As ``insert_range`` runs it, with its parameters."""
    select, key, table = transform.function, transform.key, transform.target
    if not (isinstance(select, Select) and isinstance(key, SelectedKey)):
        raise TypeError(f"{transform.name} is no SQL transform with a key=")
    names = [each.name for each in select.reads]
    rows, parameters = in_range(source, lower, upper, _columns(dict.fromkeys([*source.key, *names])))
    if touched:
        rows = sql.SQL("SELECT * FROM ({}) AS q WHERE NOT {}").format(rows, among(source, source.key))
    given = dict.fromkeys([*table.key, *select.gives])
    values = comma([
        sql.SQL("{} AS {}").format(
            assigned(identifier("new" if name in select.gives else "k", name), table.by_name[name]), identifier(name)
        )
        for name in given
    ])  # fmt: skip
    columns = beside_parameters(comma([identifier(name) for name in given]))
    key_columns = beside_parameters(comma([identifier(name) for name in table.key]))
    found = sql.SQL(STATEMENT).format(
        values=beside_parameters(values),
        agree=beside_parameters(_agree(table, select)),
        rows=rows,
        select=beside_parameters(sql.SQL(select.text)),
        key=beside_parameters(sql.SQL(key.text)),
        key_names=key_columns,
        target=beside_parameters(identifier(table.name.schema, table.name.table)),
        columns=columns,
        key_columns=key_columns,
    )
    places = range(len(source.key))
    return found, [*parameters, *([[each[place] for each in touched] for place in places] if touched else [])]


def _agree(table: Table, select: Select) -> sql.Composable:
    """That the key in a row is the one that ``key=`` gives; a NULL is refused when it is written."""
    both = [table.by_name[name] for name in table.key if name in select.gives]
    if not both:
        return sql.SQL("true")
    typed = {
        alias: comma([
            sql.SQL("{} AS {}").format(assigned(identifier(alias, each.name), each), identifier(each.name))
            for each in both
        ])
        for alias in ("new", "k")
    }  # fmt: skip
    return sql.SQL("(SELECT {} FROM (SELECT {}) AS a CROSS JOIN (SELECT {}) AS b)").format(
        all_equal("a", "b", both), typed["new"], typed["k"]
    )


def _columns(names: Iterable[str]) -> list[sql.Composed]:
    return [sql.SQL("{}").format(beside_parameters(identifier("q", name))) for name in names]
