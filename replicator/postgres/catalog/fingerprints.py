"""What the catalogue says of the tables that are read, stored with the progress: by it, changes past the log show."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from psycopg import AsyncCursor, sql

from replicator.core.tables import Name
from replicator.mapping.plan import Plan
from replicator.migration import Direction
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.session.held import is_held


@dataclass(frozen=True, kw_only=True)
class ColumnDefinition:
    """One column. Its number stays with it; a column that is dropped and made anew gets another."""

    name: str
    type_oid: int
    spelt: str
    """The type with its modifier."""
    expression: str | None
    """What generates it."""
    labels: Mapping[str, str]
    """Of each enum in its type, by their oids: a label can be renamed under the rows that bear it, and back again."""
    collation: int = 0
    """Its oid: what is equal depends on it. 0: the type has none."""
    generation: str = ""
    """Another one after each change of the column, or of the attributes of a composite that its type is made of."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One table as the catalogue has it."""

    oid: int
    key: tuple[int, ...]
    """The numbers of the primary key's columns."""
    identity: tuple[str, ...]
    """The columns that the log names an old row by, in every partition."""
    columns: Mapping[int, ColumnDefinition]
    files: Mapping[int, int]
    """The storage of the table, of each partition and of each heir, by its oid: a rewrite makes it anew."""
    partitions: tuple[tuple[str, str], ...]
    """Schema and name of each."""
    published: int | None
    """Its entry in the publication, which must publish everything; None when there is none."""
    generation: str = ""
    """Another one after each change of the names, the tree, the key, or the publication, one that was undone too."""


# There may be thousands of partitions: each catalogue is read once for all tables. What inherits counts as well: its
# rows are read with the table's. Of partitions, each has its own identity.
#
# What was done and undone between two looks, or in one transaction, left the catalogue as it was: but its rows are
# others, with another xmin. Those are taken that change with what the log depends on, and with nothing else: not
# pg_class, whose rows GRANT and ALTER TABLE ... SET (...) change, but the row type, which has the table's name and
# schema; and the key's constraint, not its index, which REINDEX CONCURRENTLY makes anew. VACUUM, ANALYZE and CREATE
# INDEX change none.
TABLES = """
    WITH RECURSIVE relations AS MATERIALIZED (
        SELECT c.oid, c.relname, c.relnamespace, c.reltype, c.relkind, c.relispartition, c.relreplident, c.relfilenode
        FROM pg_class c WHERE c.relkind IN ('r', 'p', 'f')
    ), roots AS (
        SELECT c.oid, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p')
    ), heirs AS MATERIALIZED (
        SELECT i.inhparent, c.oid, i.xmin::text AS born FROM pg_inherits i JOIN relations c ON c.oid = i.inhrelid
    ), tree AS (
        SELECT oid AS root, oid, '' AS born FROM roots
        UNION
        SELECT t.root, h.oid, h.born FROM tree t JOIN heirs h ON h.inhparent = t.oid
    ), members AS (
        SELECT t.root, t.oid, n.nspname, c.relname, c.relreplident, c.relispartition, c.relfilenode::bigint AS file,
               c.relkind = 'r' AND (c.oid = t.root OR c.relispartition) AS logged
        FROM tree t JOIN relations c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind <> 'p'
    ), keys AS (
        SELECT i.indrelid, array_agg(k.num::int ORDER BY k.place) AS key
        FROM roots r JOIN pg_index i ON i.indrelid = r.oid
        CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, place)
        WHERE i.indisprimary AND i.indimmediate GROUP BY 1
    ), identifying AS (
        SELECT m.root, m.oid, a.attname::text AS name
        FROM members m JOIN pg_index i ON i.indrelid = m.oid
        JOIN pg_attribute a ON a.attrelid = m.oid AND a.attnum = ANY (i.indkey::int2[])
        WHERE m.logged AND (m.relreplident = 'd' AND i.indisprimary AND i.indimmediate
                            OR m.relreplident = 'i' AND i.indisreplident)
        UNION
        SELECT m.root, m.oid, a.attname::text FROM members m JOIN pg_attribute a ON a.attrelid = m.oid
        WHERE m.logged AND m.relreplident = 'f' AND a.attnum > 0 AND NOT a.attisdropped
    ), counted AS (
        SELECT root, name, count(*) AS number FROM identifying GROUP BY 1, 2
    ), stored AS (
        SELECT root, jsonb_object_agg(oid, file) AS files, count(*) FILTER (WHERE logged) AS number,
               jsonb_agg(jsonb_build_array(nspname, relname) ORDER BY nspname, relname)
                   FILTER (WHERE logged AND oid <> root) AS partitions
        FROM members GROUP BY 1
    ), identities AS (
        SELECT s.root, array_agg(c.name ORDER BY c.name) AS identity
        FROM stored s JOIN counted c ON c.root = s.root AND c.number = s.number GROUP BY 1
    ), publications AS (
        SELECT r.prrelid, r.oid::bigint AS published, format('%%s %%s', r.xmin, p.xmin) AS generation
        FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
        WHERE p.pubname = %(publication)s AND NOT p.pubviaroot
          AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate
    ), named AS (
        SELECT t.root, string_agg(format('%%s %%s %%s %%s %%s', t.oid, t.born, y.xmin, n.oid, n.xmin), ','
                                  ORDER BY t.oid) AS generation
        FROM tree t JOIN relations c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_type y ON y.oid = c.reltype GROUP BY 1
    ), primaries AS (
        SELECT conrelid, oid AS number FROM pg_constraint WHERE contype = 'p'
    )
    SELECT r.oid::bigint, r.relname, coalesce(k.key, '{}') AS key, coalesce(i.identity, '{}') AS identity,
           coalesce(s.number, 0) AS logged, s.files, s.partitions, p.published,
           encode(sha256(convert_to(concat_ws(';', g.generation, o.number, p.generation), 'UTF8')), 'hex') AS generation
    FROM roots r LEFT JOIN keys k ON k.indrelid = r.oid LEFT JOIN identities i ON i.root = r.oid
    LEFT JOIN stored s ON s.root = r.oid LEFT JOIN publications p ON p.prrelid = r.oid
    LEFT JOIN named g ON g.root = r.oid LEFT JOIN primaries o ON o.conrelid = r.oid
"""

# A label may be an attribute of a composite, a bound of a range, an element of an array: all that makes a type counts.
COLUMNS = """
    WITH RECURSIVE used AS (
        SELECT DISTINCT atttypid AS root, atttypid AS oid FROM pg_attribute
        WHERE attrelid = ANY (%(oids)s::oid[]) AND attnum > 0
        UNION
        SELECT u.root, part.oid FROM used u JOIN pg_type y ON y.oid = u.oid CROSS JOIN LATERAL (
            VALUES (y.typelem), (y.typbasetype)
            UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE y.oid IN (r.rngtypid, r.rngmultitypid)
            UNION ALL SELECT b.atttypid FROM pg_attribute b WHERE b.attrelid = y.typrelid AND b.attnum > 0
        ) AS part(oid) WHERE part.oid <> 0
    ), labels AS (
        SELECT u.root, jsonb_object_agg(e.oid::text, format('%%s %%s', e.xmin, e.enumlabel)) AS labels
        FROM used u JOIN pg_enum e ON e.enumtypid = u.oid GROUP BY 1
    ), attributes AS (
        SELECT u.root, string_agg(format('%%s %%s', b.attnum, b.xmin), ',' ORDER BY t.oid, b.attnum) AS generation
        FROM used u JOIN pg_type t ON t.oid = u.oid AND t.typtype = 'c'
        JOIN pg_attribute b ON b.attrelid = t.typrelid AND b.attnum > 0 GROUP BY 1
    )
    SELECT a.attrelid::bigint AS table, a.attnum::int AS number, a.attname AS name, a.atttypid::bigint AS type_oid,
           format_type(a.atttypid, a.atttypmod) AS spelt,
           CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END AS expression,
           coalesce(l.labels, '{}') AS labels, a.attcollation::bigint AS collation,
           concat_ws(';', a.xmin, g.generation) AS generation
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN labels l ON l.root = a.atttypid LEFT JOIN attributes g ON g.root = a.atttypid
    WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
"""


async def read_definitions(
    connection: Connection, schema: str, tables: Iterable[str], publication: str
) -> dict[str, Definition]:
    """The definitions of tables of one schema, by what the migration calls them; one that is not there is left out.

    :param connection: in autocommit mode, or held in a transaction that keeps all others from the tables.
    :param schema: as the migration names it.
    """
    places = await read_places(connection)
    called = {places.now(Name(schema=schema, table=each)).table: each for each in tables}
    with translated():
        async with connection.transaction(), connection.cursor() as cursor:
            if not is_held(connection):
                await cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            named = {"schema": places.schema(schema), "tables": list(called), "publication": publication}
            found = await _fetch(cursor, TABLES, named)
            oids = {"oids": [each["oid"] for each in found]}
            columns: dict[int, dict[int, ColumnDefinition]] = {}
            for each in await _fetch(cursor, COLUMNS, oids):
                of_table = columns.setdefault(each.pop("table"), {})
                number = each.pop("number")
                of_table[number] = ColumnDefinition(**each)
    return {called[each.pop("relname")]: _definition(**each, columns=columns.get(each["oid"], {})) for each in found}


async def _fetch(cursor: AsyncCursor[Any], query: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows as JSON has them, whatever types the connection gives."""
    await cursor.execute(sql.SQL("SELECT to_jsonb(q)::text FROM ({}) AS q").format(sql.SQL(query)), parameters)
    return [json.loads(row[0]) for row in await cursor.fetchall()]


def _definition(
    *,
    oid: int,
    key: list[int],
    identity: list[str],
    columns: Mapping[int, ColumnDefinition],
    files: Mapping[str, int] | None,
    partitions: list[tuple[str, str]] | None,
    published: int | None,
    generation: str = "",
    logged: int = 1,
) -> Definition:
    if not logged:  # without a partition nothing can be changed, and nothing is left out
        identity = sorted(each.name for each in columns.values())
    return Definition(
        oid=oid,
        key=tuple(key),
        identity=tuple(identity),
        columns=columns,
        files={int(each): file for each, file in (files or {}).items()},
        partitions=tuple((schema, table) for schema, table in partitions or ()),
        published=published,
        generation=generation,
    )


def may_have_changed(known: Definition, now: Definition) -> bool:
    """Whether rows may have changed, come or gone past the log: storage made anew, partitions, other meanings.

    What was changed and changed back counts: the log meanwhile had other names, or nothing.
    """
    return (known.files, known.generation) != (now.files, now.generation) or any(
        _means_otherwise(was, now.columns.get(number)) for number, was in known.columns.items()
    )


def _means_otherwise(was: ColumnDefinition, now: ColumnDefinition | None) -> bool:
    if now is None or (was.name, was.expression, was.generation) != (now.name, now.expression, now.generation):
        return True
    return any(now.labels.get(oid) != label for oid, label in was.labels.items())


def as_planned(plan: Plan, definitions: Mapping[str, Definition]) -> dict[str, Definition]:
    """Without the columns that the plan does not know: whoever compares with it is to see that they are new."""
    known = {name: plan.watched[name].by_name for name in definitions}
    return {
        name: replace(
            each, columns={number: column for number, column in each.columns.items() if column.name in known[name]}
        )
        for name, each in definitions.items()
    }


async def stored_definitions(connection: Connection, pipeline: Direction) -> dict[str, Definition]:
    """The definitions as they were when the rows were last compared, or first read."""
    with translated():
        cursor = await connection.execute(
            "SELECT source_table, definition::text FROM _replicator.definitions WHERE pipeline = %s", (pipeline,)
        )
        return {name: _loaded(json.loads(document)) for name, document in await cursor.fetchall()}


async def store_definitions(connection: Connection, pipeline: Direction, definitions: Mapping[str, Definition]) -> None:
    """Store the definitions of some tables; the columns that are there the first time count as accounted for."""
    with translated():
        for name, definition in definitions.items():
            await connection.execute(
                "INSERT INTO _replicator.definitions (pipeline, source_table, definition, accounted) "
                "VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (pipeline, source_table) DO UPDATE SET definition = EXCLUDED.definition",
                (pipeline, name, json.dumps(asdict(definition)), [each.name for each in definition.columns.values()]),
            )


async def accounted_columns(connection: Connection, pipeline: Direction) -> dict[str, set[str]]:
    """The columns of each table that the migration has accounted for."""
    with translated():
        cursor = await connection.execute(
            "SELECT source_table, accounted FROM _replicator.definitions WHERE pipeline = %s", (pipeline,)
        )
        return {name: set(columns) for name, columns in await cursor.fetchall()}


async def account_for(connection: Connection, pipeline: Direction, columns: Mapping[str, Collection[str]]) -> None:
    """Store that the migration accounts for these columns too, by table."""
    with translated():
        for name, each in columns.items():
            await connection.execute(
                "UPDATE _replicator.definitions SET accounted = accounted || %s::text[] "
                "WHERE pipeline = %s AND source_table = %s",
                (sorted(each), pipeline, name),
            )


def _loaded(document: dict[str, Any]) -> Definition:
    columns = {int(number): ColumnDefinition(**each) for number, each in document.pop("columns").items()}
    return _definition(**document, columns=columns)
