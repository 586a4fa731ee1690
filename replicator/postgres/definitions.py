"""What the catalogue says of the tables that are read, stored with the progress: by it, changes past the log show."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from psycopg import AsyncCursor, sql
from psycopg.pq import TransactionStatus

from replicator.migration import Direction
from replicator.postgres.connect import Connection, translated
from replicator.postgres.places import read_places
from replicator.tables import Name


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
    """Of an enum: the labels by their oids, for a label can be renamed under the rows that bear it."""


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
    """The storage of the table, or of each partition, by its oid: a rewrite makes it anew."""
    partitions: tuple[tuple[str, str], ...]
    """Schema and name of each."""
    published: int | None
    """Its entry in the publication, which must publish everything; None when there is none."""


TABLES = """
    SELECT c.oid::bigint, c.relname,
           coalesce((SELECT array_agg(k.num::int ORDER BY k.place) FROM pg_index i
                     CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, place)
                     WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate), '{}') AS key,
           (SELECT jsonb_object_agg(l.oid, pg_relation_filenode(l.oid)::bigint) FROM pg_class l
            WHERE l.oid = c.oid AND c.relkind = 'r'
               OR c.relkind = 'p' AND l.oid IN (SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf)) AS files,
           (SELECT jsonb_agg(jsonb_build_array(m.nspname, l.relname) ORDER BY m.nspname, l.relname)
            FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
            JOIN pg_namespace m ON m.oid = l.relnamespace
            WHERE c.relkind = 'p' AND t.isleaf AND l.oid <> c.oid) AS partitions,
           (SELECT r.oid::bigint FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
            WHERE r.prrelid = c.oid AND p.pubname = %(publication)s AND NOT p.pubviaroot
            AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate) AS published
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p')
"""

# Of partitions, each has its own identity.
IDENTITIES = """
    SELECT r.oid::bigint AS table, c.oid,
           array_agg(a.attname::text) FILTER (WHERE c.relreplident = 'f' OR EXISTS (
               SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
               AND (c.relreplident = 'd' AND i.indisprimary AND i.indimmediate
                    OR c.relreplident = 'i' AND i.indisreplident))) AS columns
    FROM pg_class r
    JOIN pg_class c ON c.oid = r.oid AND r.relkind = 'r'
        OR r.relkind = 'p' AND c.oid IN (SELECT relid FROM pg_partition_tree(r.oid) WHERE isleaf)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE r.oid = ANY (%(oids)s::oid[])
    GROUP BY r.oid, c.oid
"""

COLUMNS = """
    SELECT a.attrelid::bigint AS table, a.attnum::int AS number, a.attname AS name, a.atttypid::bigint AS type_oid,
           format_type(a.atttypid, a.atttypmod) AS spelt,
           CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END AS expression,
           coalesce((SELECT jsonb_object_agg(e.oid::text, e.enumlabel)
                     FROM pg_enum e JOIN pg_type t ON t.oid = a.atttypid
                     WHERE e.enumtypid IN (t.oid, t.typelem, t.typbasetype)), '{}') AS labels
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
"""


async def read_definitions(
    connection: Connection, schema: str, tables: Iterable[str], publication: str
) -> dict[str, Definition]:
    """The definitions of tables of one schema, by what the migration calls them; one that is not there is left out.

    :param connection: in autocommit mode, or in a transaction that keeps all others from the tables.
    :param schema: as the migration names it.
    """
    inside = connection.info.transaction_status == TransactionStatus.INTRANS
    places = await read_places(connection)
    called = {places.now(Name(schema=schema, table=each)).table: each for each in tables}
    with translated():
        async with connection.transaction(), connection.cursor() as cursor:
            if not inside:
                await cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            named = {"schema": places.schema(schema), "tables": list(called), "publication": publication}
            found = await _fetch(cursor, TABLES, named)
            oids = {"oids": [each["oid"] for each in found]}
            columns: dict[int, dict[int, ColumnDefinition]] = {}
            for each in await _fetch(cursor, COLUMNS, oids):
                of_table = columns.setdefault(each.pop("table"), {})
                number = each.pop("number")
                of_table[number] = ColumnDefinition(**each)
            identities: dict[int, list[set[str]]] = {}
            for each in await _fetch(cursor, IDENTITIES, oids):
                identities.setdefault(each["table"], []).append(set(each["columns"] or ()))
    return {
        called[each.pop("relname")]: _definition(
            **each,
            columns=columns.get(each["oid"], {}),
            identity=sorted(set.intersection(*identities.get(each["oid"], [set()]))),
        )
        for each in found
    }


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
) -> Definition:
    return Definition(
        oid=oid,
        key=tuple(key),
        identity=tuple(identity),
        columns=columns,
        files={int(each): file for each, file in (files or {}).items()},
        partitions=tuple((schema, table) for schema, table in partitions or ()),
        published=published,
    )


async def stored_definitions(connection: Connection, pipeline: Direction) -> dict[str, Definition]:
    """The definitions as they were when the rows were last compared, or first read."""
    with translated():
        cursor = await connection.execute(
            "SELECT source_table, definition FROM replicator.definitions WHERE pipeline = %s", (pipeline,)
        )
        return {name: _loaded(document) for name, document in await cursor.fetchall()}


async def store_definitions(connection: Connection, pipeline: Direction, definitions: Mapping[str, Definition]) -> None:
    """Store the definitions of some tables."""
    with translated():
        for name, definition in definitions.items():
            await connection.execute(
                "INSERT INTO replicator.definitions (pipeline, source_table, definition) VALUES (%s, %s, %s) "
                "ON CONFLICT (pipeline, source_table) DO UPDATE SET definition = EXCLUDED.definition",
                (pipeline, name, json.dumps(asdict(definition))),
            )


def _loaded(document: dict[str, Any]) -> Definition:
    columns = {int(number): ColumnDefinition(**each) for number, each in document.pop("columns").items()}
    return _definition(**document, columns=columns)
