"""Reads tables, columns, keys and foreign keys from the catalogue (Postgres documentation, chapter 53)."""

from collections.abc import Iterable, Mapping
from typing import Any

from replicator.core.equality import Form
from replicator.core.tables import Column, ForeignKey, Name, Operators, Table
from replicator.postgres.catalog.forms import Typed, read_forms
from replicator.postgres.catalog.kinds import kinds_of
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.session.server import fetch, fetch_plain
from replicator.values import Kind

TABLES = """
    SELECT c.oid, c.relname, c.relreplident::text AS identity, c.relkind::text AS relkind
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    ORDER BY c.relname
"""

COLUMNS = """
    SELECT a.attrelid, a.attname, a.atttypid, format_type(a.atttypid, a.atttypmod) AS type,
           format_type(a.atttypid, -1) AS bare_type, a.attnotnull, a.atttypmod, a.attcollation::int8,
           a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL AS has_default,
           a.attgenerated <> '' AS generated, a.attidentity = 'a' AS identity
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attrelid, a.attnum
"""

KEYS = """
    SELECT i.indrelid, i.indisprimary AS is_primary, i.indisreplident AS is_identity,
           array_agg(a.attname::text ORDER BY k.place) AS columns
    FROM pg_index i
    CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = ANY (%(oids)s::oid[]) AND (i.indisprimary AND i.indimmediate OR i.indisreplident)
    GROUP BY i.indexrelid
"""

FOREIGN_KEYS = """
    SELECT con.conrelid, con.conname, n.nspname, (
               SELECT jsonb_agg(jsonb_build_array(s.nspname, o.oprname) ORDER BY k.place)
               FROM unnest(con.conpfeqop) WITH ORDINALITY k(oid, place)
               JOIN pg_operator o ON o.oid = k.oid JOIN pg_namespace s ON s.oid = o.oprnamespace
           ) AS operators, p.relname, con.confmatchtype::text = 'f' AS full_match,
           con.condeferrable AND 'r' NOT IN (con.confdeltype::text, con.confupdtype::text) AS deferrable,
           con.confdeltype::text IN ('c', 'n', 'd') AS acts, con.confdeltype::text = 'r' AS restricts,
           con.confupdtype::text = 'c' AS follows,
           (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(con.conkey) WITH ORDINALITY k(num, place)
            JOIN pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.num) AS columns,
           (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(con.confkey) WITH ORDINALITY k(num, place)
            JOIN pg_attribute a ON a.attrelid = con.confrelid AND a.attnum = k.num) AS parent_columns
    FROM pg_constraint con
    JOIN pg_class p ON p.oid = con.confrelid JOIN pg_namespace n ON n.oid = p.relnamespace
    WHERE con.contype = 'f' AND con.conrelid = ANY (%(oids)s::oid[]) AND con.conparentid = 0
"""

# There may be thousands: the catalogue is read once for all of them.
LEAVES = """
    WITH RECURSIVE tree AS (
        SELECT oid AS root, oid FROM unnest(%(oids)s::oid[]) AS o (oid)
        UNION ALL
        SELECT t.root, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
        JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
    )
    SELECT t.root, n.nspname, c.relname
    FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE t.oid <> t.root AND c.relkind <> 'p'
    ORDER BY 1, 2, 3
"""

ROOTS = """
    SELECT w.schema, w."table", n.nspname AS root_schema, r.relname AS root
    FROM unnest(%(schemas)s::text[], %(tables)s::text[]) AS w (schema, "table")
    JOIN pg_namespace cn ON cn.nspname = w.schema
    JOIN pg_class c ON c.relnamespace = cn.oid AND c.relname = w."table" AND c.relispartition
    JOIN pg_class r ON r.oid = pg_partition_root(c.oid) JOIN pg_namespace n ON n.oid = r.relnamespace
"""


async def read_tables(connection: Connection, schema: str) -> dict[str, Table]:
    """All ordinary and partitioned tables of a schema by name; partitions are their root's ``leaves``.

    A table that a cutover has renamed is found where it is now, by the name that the migration calls it.
    """
    places = await read_places(connection)
    with translated():
        found = await fetch(connection, TABLES, schema=places.schema(schema))
        names = {each["oid"]: Name(schema=places.schema(schema), table=each["relname"]) for each in found}
        called = {oid: places.called(schema, name) for oid, name in names.items()}
        relations = [each for each in found if called[each["oid"]] is not None]
        oids = [each["oid"] for each in relations]
        columns = await _by(connection, COLUMNS, "attrelid", oids)
        every = [each for of_table in columns.values() for each in of_table]
        types = await kinds_of(connection, [each["atttypid"] for each in every])
        forms = await read_forms(connection, [_typed(each) for each in every])
        keys = await _by(connection, KEYS, "indrelid", oids)
        foreign_keys = await _by(connection, FOREIGN_KEYS, "conrelid", oids)
        leaves = await _by(connection, LEAVES, "root", oids)
        return {
            called[oid] or "": _table(
                names[oid],
                called[oid] or "",
                relation["identity"],
                relation["relkind"] == "p",
                [_column(each, types, forms) for each in columns.get(oid, [])],
                keys.get(oid, []),
                foreign_keys.get(oid, []),
                [Name(schema=leaf["nspname"], table=leaf["relname"]) for leaf in leaves.get(oid, [])],
            )
            for relation in relations
            for oid in [relation["oid"]]
        }


async def live_rows(connection: Connection, schema: str) -> dict[str, int]:
    """About how many rows each table of a schema holds, as the statistics collector counts them."""
    places = await read_places(connection)
    where = places.schema(schema)
    with translated():
        cursor = await connection.execute(
            "SELECT coalesce(r.relname, s.relname), sum(s.n_live_tup)::bigint FROM pg_stat_user_tables s "
            "LEFT JOIN pg_class r ON r.oid = pg_partition_root(s.relid) WHERE s.schemaname = %s GROUP BY 1",
            (where,),
        )
        found = {
            places.called(schema, Name(schema=where, table=table)): rows for table, rows in await cursor.fetchall()
        }
        return {table: int(rows) for table, rows in found.items() if table is not None}


async def partition_roots(connection: Connection, names: Iterable[Name]) -> dict[Name, Name]:
    """The table at the top of each partition's tree; what is no partition, or is gone, is left out."""
    listed = list(names)
    found = await fetch_plain(
        connection, ROOTS, schemas=[each.schema for each in listed], tables=[each.table for each in listed]
    )
    return {
        Name(schema=each["schema"], table=each["table"]): Name(schema=each["root_schema"], table=each["root"])
        for each in found
    }


async def _by(connection: Connection, query: str, table: str, oids: list[int]) -> dict[int, list[dict[str, Any]]]:
    """The rows about some tables, by the column that says which table."""
    found: dict[int, list[dict[str, Any]]] = {}
    for each in await fetch(connection, query, oids=oids):
        found.setdefault(each[table], []).append(each)
    return found


def _typed(row: dict[str, Any]) -> Typed:
    return row["atttypid"], row["atttypmod"], row["attcollation"]


def _column(row: dict[str, Any], types: dict[int, tuple[Kind, Operators]], forms: Mapping[Typed, Form]) -> Column:
    kind, operators = types[row["atttypid"]]
    return Column(
        name=row["attname"],
        type=row["type"],
        cast=row["bare_type"],
        type_oid=row["atttypid"],
        kind=kind,
        operators=operators,
        not_null=row["attnotnull"],
        has_default=row["has_default"],
        generated=row["generated"],
        identity=row["identity"],
        equality=forms[_typed(row)],
    )


def _table(
    name: Name,
    called: str,
    identity: str,
    partitioned: bool,
    columns: list[Column],
    keys: list[dict[str, Any]],
    foreign_keys: list[dict[str, Any]],
    leaves: list[Name],
) -> Table:
    primary = next((tuple(each["columns"]) for each in keys if each["is_primary"]), ())
    chosen = next((tuple(each["columns"]) for each in keys if each["is_identity"]), ())
    every = tuple(column.name for column in columns)
    return Table(
        name=name,
        columns=tuple(columns),
        key=primary,
        replica_identity=identity,
        identity_columns={"d": primary, "f": every, "i": chosen}.get(identity, ()),
        partitioned=partitioned,
        leaves=tuple(leaves),
        original=called if called != name.table else "",
        foreign_keys=tuple(
            ForeignKey(
                name=each["conname"],
                columns=tuple(each["columns"]),
                parent=Name(schema=each["nspname"], table=each["relname"]),
                parent_columns=tuple(each["parent_columns"]),
                deferrable=each["deferrable"],
                acts=each["acts"],
                restricts=each["restricts"],
                operators=tuple(Operators(schema=schema, equal=name) for schema, name in each["operators"]),
                detachable=_detachable(each, columns, primary),
                follows=each["follows"],
            )
            for each in foreign_keys
        ),
    )


def _detachable(foreign_key: dict[str, Any], columns: list[Column], primary: tuple[str, ...]) -> tuple[str, ...]:
    """Its columns that may be NULL; of MATCH FULL, one NULL among others is a violation."""
    given: list[str] = foreign_key["columns"]
    fixed = {each.name for each in columns if each.not_null or each.generated or each.identity} | set(primary)
    free = tuple(name for name in given if name not in fixed)
    return () if foreign_key["full_match"] and len(free) < len(given) else free
