"""Constraints, indexes and extended statistics."""

from collections.abc import Iterator
from typing import Any, Final

from replicator.core.tables import Name
from replicator.postgres.attached.deparsed import alter, at, options
from replicator.postgres.attached.item import Attached, Beside, Kind, Other, Own, Text

CONSTRAINTS: Final = """
    SELECT k.conrelid::int8 AS oid, k.contype::text AS type, k.conname AS name, pg_get_constraintdef(k.oid)
               AS definition, k.convalidated AS valid, pn.nspname AS parent_schema, p.relname AS parent_table,
           CASE WHEN k.contype = 'f' THEN format('%%I.%%I', pn.nspname, p.relname) END AS parent,
           k.confrelid = k.conrelid AS itself, coalesce(i.reloptions, '{}') AS options, i.relname AS index_name,
           quote_ident(s.spcname) AS space,
           k.condeferrable AS deferrable, k.condeferred AS deferred,
           CASE WHEN k.contype = 'u' THEN pg_get_indexdef(k.conindid) END AS index_definition,
           CASE WHEN k.contype = 'u' THEN format('CREATE UNIQUE INDEX %%I ON %%s%%I.%%I ', i.relname,
                CASE WHEN i.relkind = 'I' THEN 'ONLY ' END, n.nspname, c.relname) END AS index_opening,
           ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(number, place)
                 JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place) AS columns,
           ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(number, place)
                 JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number ORDER BY u.place)
                 AS parent_columns
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_class p ON p.oid = k.confrelid LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
    LEFT JOIN pg_class i ON i.oid = k.conindid AND k.contype IN ('p', 'u', 'x')
    LEFT JOIN pg_tablespace s ON s.oid = i.reltablespace
    WHERE k.conrelid = ANY (%(oids)s::oid[]) AND k.contype IN ('c', 'p', 'u', 'x', 'f') AND k.conparentid = 0
      AND k.conislocal
    ORDER BY k.conrelid, k.contype = 'f', k.contype <> 'p', k.conname
"""

# An index that is half-built, or has failed, is not there for anybody.
INDEXES: Final = """
    SELECT x.indrelid::int8 AS oid, i.relname AS name, x.indisunique AS is_unique, pg_get_indexdef(i.oid) AS definition,
           format('CREATE %%sINDEX %%I ON %%s%%I.%%I ', CASE WHEN x.indisunique THEN 'UNIQUE ' END, i.relname,
                  CASE WHEN i.relkind = 'I' THEN 'ONLY ' END, n.nspname, c.relname) AS opening,
           quote_ident(s.spcname) AS space,
           ARRAY(SELECT a.attname::text FROM unnest(x.indkey::int2[]) WITH ORDINALITY u(number, place)
                 JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = u.number ORDER BY u.place) AS columns
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_tablespace s ON s.oid = i.reltablespace
    WHERE x.indrelid = ANY (%(oids)s::oid[]) AND x.indisvalid AND NOT i.relispartition
      AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.oid AND k.conrelid = x.indrelid
                      AND k.contype IN ('p', 'u', 'x'))
    ORDER BY x.indrelid, i.relname
"""

# Of the expressions of an index, by their number in it.
TARGETS: Final = """
    SELECT x.indrelid::int8 AS oid, i.relname AS name, a.attnum AS number,
           (to_jsonb(a) ->> 'attstattarget')::int AS target
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_attribute a ON a.attrelid = i.oid
    WHERE x.indrelid = ANY (%(oids)s::oid[]) AND coalesce((to_jsonb(a) ->> 'attstattarget')::int, -1) >= 0
    ORDER BY x.indrelid, i.relname, a.attnum
"""

STATISTICS: Final = """
    SELECT s.stxrelid::int8 AS oid, s.stxname AS name, pg_get_statisticsobjdef(s.oid) AS definition,
           format('CREATE STATISTICS %%I.%%I', sn.nspname, s.stxname) AS opening,
           format('%%I.%%I', n.nspname, c.relname) AS table_name,
           nullif((to_jsonb(s) ->> 'stxstattarget')::int, -1) AS target
    FROM pg_statistic_ext s JOIN pg_namespace sn ON sn.oid = s.stxnamespace
    JOIN pg_class c ON c.oid = s.stxrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE s.stxrelid = ANY (%(oids)s::oid[])
    ORDER BY s.stxrelid, s.stxname
"""

KINDS: Final[dict[str, Kind]] = {
    "c": "check", "p": "primary key", "u": "unique", "x": "exclusion", "f": "foreign key",
}  # fmt: skip
"""As in pg_constraint.contype."""


def of_constraint(row: dict[str, Any]) -> Iterator[tuple[int, Attached]]:
    """What a row of ``CONSTRAINTS`` says, with the table's oid."""
    definition: Text = (row["definition"],)
    parent = None
    if row["type"] == "f":
        before, after = at(row["definition"], "REFERENCES", row["parent"])
        parent = Name(schema=row["parent_schema"], table=row["parent_table"])
        definition = (before, Own.TABLE if row["itself"] else Other(parent), after)
    fragment: Text = ("CONSTRAINT ", Own.NAME, " ", *definition)
    yield (
        row["oid"],
        Attached(
            kind=KINDS[row["type"]],
            name=row["name"],
            columns=tuple(row["columns"]),
            statements=((*alter("ADD "), *fragment),),
            fragment=fragment,
            parent=parent,
            parent_columns=tuple(row["parent_columns"]),
            by_index=_by_index(row) if row["type"] == "u" else (),
            valid=row["valid"],
        ),
    )
    if row["options"]:
        text = f" SET ({', '.join(options(row['options']))})"
        yield row["oid"], _of_index("storage parameters", row["index_name"], text)
    if row["space"]:
        yield row["oid"], _of_index("tablespace", row["index_name"], f" SET TABLESPACE {row['space']}")


def _by_index(row: dict[str, Any]) -> tuple[Text, ...]:
    if " USING btree " not in row["index_definition"]:  # WITHOUT OVERLAPS: of such an index, no constraint can be made
        return ()
    rest = row["index_definition"].removeprefix(row["index_opening"])
    late = " DEFERRABLE" * row["deferrable"] + " INITIALLY DEFERRED" * row["deferred"]
    return (
        ("CREATE UNIQUE INDEX ", Own.NAME, " ON ", Own.TABLE, f" {rest}"),
        (*alter("ADD CONSTRAINT "), Own.NAME, " UNIQUE USING INDEX ", Own.NAME, late),
    )


def of_index(row: dict[str, Any]) -> Iterator[tuple[int, Attached]]:
    """What a row of ``INDEXES`` says, with the table's oid."""
    made = f"CREATE {'UNIQUE ' if row['is_unique'] else ''}INDEX "
    rest = row["definition"].removeprefix(row["opening"])
    yield (
        row["oid"],
        Attached(
            kind="index",
            name=row["name"],
            columns=tuple(row["columns"]),
            statements=((made, Own.NAME, " ON ", Own.TABLE, f" {rest}"),),
        ),
    )
    if row["space"]:
        yield row["oid"], _of_index("tablespace", row["name"], f" SET TABLESPACE {row['space']}")


def of_target(row: dict[str, Any]) -> Iterator[tuple[int, Attached]]:
    """What a row of ``TARGETS`` says, with the table's oid."""
    text = f" ALTER COLUMN {row['number']} SET STATISTICS {row['target']}"
    yield row["oid"], _of_index("statistics target", row["name"], text)


def _of_index(kind: Kind, index: str, text: str) -> Attached:
    return Attached(kind=kind, name=index, of="index", statements=(("ALTER INDEX ", Beside(index), text),))


def of_statistics(row: dict[str, Any]) -> Iterator[tuple[int, Attached]]:
    """What a row of ``STATISTICS`` says, with the table's oid. The object goes into the table's schema."""
    middle = row["definition"].removeprefix(row["opening"])
    before, after = at(middle, "FROM", row["table_name"])
    name = Beside(row["name"])
    statements: tuple[Text, ...] = (("CREATE STATISTICS IF NOT EXISTS ", name, before, Own.TABLE, after),)
    if row["target"] is not None:
        statements += (("ALTER STATISTICS ", name, f" SET STATISTICS {row['target']}"),)
    yield row["oid"], Attached(kind="statistics", name=row["name"], statements=statements)
