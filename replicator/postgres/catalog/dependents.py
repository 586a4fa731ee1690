"""What hangs on tables and is no part of them: views, functions, publications and whatever else goes on using them.

Foreign keys are not told of here (``edges``), nor what belongs to a table and would be dropped with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from replicator.core.tables import Name
from replicator.postgres.control.owned import noted
from replicator.postgres.session.connect import Connection
from replicator.postgres.session.server import fetch_plain

SCHEMA_PUBLICATIONS: Final = 15_00_00
"""From this version of the server on, a publication may be of all tables of a schema."""

# ``reach`` has what belongs to the tables (level 0), and what reads them, through any number of views and functions.
# A sequence, a type or a partition is a part of its table: who uses that uses the table. Names come with their schema
# and without the server's language.
GRAPH: Final = """
    WITH RECURSIVE roots AS (
        SELECT unnest(%(oids)s::oid[]) AS oid
    ), reach (root, class, oid, level) AS (
        SELECT r.oid, 'pg_class'::regclass::oid, r.oid, 0 FROM roots r
        UNION
        SELECT r.root, x.class, x.oid, x.level FROM reach r CROSS JOIN LATERAL (
            SELECT d.classid AS class, d.objid AS oid, r.level FROM pg_depend d
            WHERE d.refclassid = r.class AND d.refobjid = r.oid AND d.deptype IN ('a', 'i', 'P', 'S')
            UNION ALL
            SELECT 'pg_class'::regclass::oid, w.ev_class, r.level + 1
            FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid
            WHERE d.refclassid = r.class AND d.refobjid = r.oid AND d.deptype = 'n'
              AND d.classid = 'pg_rewrite'::regclass AND w.rulename = '_RETURN' AND w.ev_class <> r.oid
            UNION ALL
            SELECT d.classid, d.objid, r.level + 1 FROM pg_depend d
            WHERE d.refclassid = r.class AND d.refobjid = r.oid AND d.deptype = 'n' AND d.classid = 'pg_proc'::regclass
        ) x
        WHERE x.class <> 'pg_class'::regclass OR x.level = 0 OR x.oid NOT IN (SELECT oid FROM roots)
    ), found AS (
        SELECT r.root, r.class, r.oid, 0 AS part, r.level FROM reach r
        WHERE r.level > 0 AND (r.class = 'pg_proc'::regclass OR r.class = 'pg_class'::regclass
                               AND EXISTS (SELECT FROM pg_class c WHERE c.oid = r.oid AND c.relkind IN ('v', 'm')))
        UNION ALL
        SELECT r.root, d.classid, d.objid, d.objsubid, r.level + 1 FROM reach r
        JOIN pg_depend d ON d.refclassid = r.class AND d.refobjid = r.oid AND d.deptype = 'n'
        WHERE NOT EXISTS (SELECT FROM reach o WHERE o.class = d.classid AND o.oid = d.objid)
          AND NOT (d.classid = 'pg_constraint'::regclass
                   AND EXISTS (SELECT FROM pg_constraint f WHERE f.oid = d.objid AND f.contype = 'f'))
        UNION ALL  -- it would be dropped with the table that it is FROM, and nobody asked
        SELECT r.oid, 'pg_trigger'::regclass::oid, t.oid, 0, 1 FROM roots r JOIN pg_trigger t ON t.tgconstrrelid = r.oid
        WHERE NOT t.tgisinternal AND t.tgrelid NOT IN (SELECT oid FROM roots)
        UNION ALL  -- reading it reads the table's rows, too
        SELECT r.oid, 'pg_class'::regclass::oid, i.inhparent, 0, 1 FROM roots r JOIN pg_inherits i ON i.inhrelid = r.oid
        JOIN pg_class c ON c.oid = r.oid AND NOT c.relispartition WHERE i.inhparent NOT IN (SELECT oid FROM roots)
    ), once AS (
        SELECT root, class, oid, part, min(level) AS level FROM found GROUP BY 1, 2, 3, 4
    )
    SELECT o.root::int8, n.nspname AS schema, t.relname AS table, o.oid::int8, o.level,
           CASE WHEN i.type = 'table' THEN 'parent table' ELSE i.type END AS kind, i.identity,
           CASE WHEN i.type = 'view' THEN pg_relation_is_updatable(o.oid, true) & 28 <> 0 ELSE false END AS writable
    FROM once o JOIN pg_class t ON t.oid = o.root JOIN pg_namespace n ON n.oid = t.relnamespace
    CROSS JOIN LATERAL pg_identify_object(o.class, o.oid, o.part) i
    WHERE i.schema IS NULL OR i.schema NOT IN ('_replicator', 'replicator') AND i.schema !~ '^pg_(toast_)?temp'
    ORDER BY 2, 3, o.level, kind, identity
"""

# Whoever is called by name is found by nothing else than the name: it may stand for something else, or be a comment.
HINTS: Final = r"""
    WITH RECURSIVE tree AS (
        SELECT unnest(%(oids)s::oid[]) AS oid
        UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
    ), roots AS (
        SELECT k.root::oid, k.schema, k.name,
               '(?<!\w)' || regexp_replace(k.name, '(\W)', '\\\1', 'g') || '(?!\w)' AS word
        FROM unnest(%(oids)s::oid[], %(schemas)s::text[], %(names)s::text[]) AS k(root, schema, name)
    )
    SELECT r.root::int8, r.schema, r.name AS table, p.oid::int8, i.type AS kind, i.identity,
           ARRAY(SELECT ti.identity FROM pg_trigger g CROSS JOIN LATERAL
                 pg_identify_object('pg_trigger'::regclass, g.oid, 0) ti
                 WHERE g.tgfoid = p.oid AND NOT g.tgisinternal AND g.tgparentid = 0
                   AND g.tgrelid NOT IN (SELECT oid FROM tree) ORDER BY 1) AS called_by
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace s ON s.oid = p.pronamespace
    JOIN roots r ON p.prosrc ~* r.word
    CROSS JOIN LATERAL pg_identify_object('pg_proc'::regclass, p.oid, 0) i
    WHERE l.lanname NOT IN ('c', 'internal') AND p.prosqlbody IS NULL
      AND s.nspname NOT IN ('pg_catalog', 'information_schema', '_replicator', 'replicator')
      AND s.nspname !~ '^pg_(toast_)?temp'
      AND NOT EXISTS (SELECT FROM pg_depend e
                      WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
    ORDER BY 2, 3, identity
"""

PUBLICATIONS: Final = """
    WITH RECURSIVE tree AS (
        SELECT k AS root, k AS oid FROM unnest(%(oids)s::oid[]) AS k
        UNION SELECT t.root, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
    ), found AS (
        SELECT t.root, p.pubname, 'publication' AS kind FROM tree t JOIN pg_publication_rel r ON r.prrelid = t.oid
        JOIN pg_publication p ON p.oid = r.prpubid
        UNION SELECT k, p.pubname, 'publication of all tables' FROM pg_publication p, unnest(%(oids)s::oid[]) AS k
        WHERE p.puballtables
        {of_schemas}
    )
    SELECT f.root::int8, n.nspname AS schema, c.relname AS table, f.kind, quote_ident(f.pubname) AS identity,
           f.pubname AS name
    FROM found f JOIN pg_class c ON c.oid = f.root JOIN pg_namespace n ON n.oid = c.relnamespace
    ORDER BY 2, 3, 5
"""
OF_SCHEMAS: Final = """
        UNION SELECT t.root, p.pubname, 'publication of a schema' FROM tree t JOIN pg_class c ON c.oid = t.oid
        JOIN pg_publication_namespace s ON s.pnnspid = c.relnamespace JOIN pg_publication p ON p.oid = s.pnpubid
"""


@dataclass(frozen=True, kw_only=True)
class Dependent:
    """One thing that uses a table.

    :param kind: as ``pg_identify_object`` calls it (``view``, ``default value``), and ``parent table``,
        ``publication``, ``publication of a schema``, ``publication of all tables``.
    :param identity: its name with its schema, as the server quotes it.
    :param level: how far away it is: 1 uses the table itself, 2 what is of level 1.
    :param hint: it is a function, and its text has the table's name: nothing more is known.
    :param writable: a view, through which rows can be written.
    :param called_by: the triggers on other tables that call such a function.
    """

    table: Name
    root: int
    oid: int
    kind: str
    identity: str
    level: int = 1
    hint: bool = False
    writable: bool = False
    called_by: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        kind, _, scope = self.kind.partition(" ") if self.kind.startswith("publication") else (self.kind, "", "")
        return f"{kind} {self.identity} {scope}".rstrip()


async def read_dependents(connection: Connection, tables: Mapping[int, Name]) -> list[Dependent]:
    """What hangs on these tables, given by their oids with the names that SQL calls them by; ours left out.

    The nearest first, table by table. Waits for whoever keeps others even from reading a view or its tables.
    """
    oids = list(tables)
    if not oids:
        return []
    found = [_dependent(each) for each in await fetch_plain(connection, GRAPH, oids=oids)]
    names = [tables[oid] for oid in oids]
    known = {(each.root, each.oid) for each in found}
    hints = await fetch_plain(
        connection, HINTS, oids=oids, schemas=[each.schema for each in names], names=[each.table for each in names]
    )
    found += [_dependent(each | {"hint": True}) for each in hints if (each["root"], each["oid"]) not in known]
    return found + await _publications(connection, oids)


async def _publications(connection: Connection, oids: Sequence[int]) -> list[Dependent]:
    of_schemas = OF_SCHEMAS if connection.info.server_version >= SCHEMA_PUBLICATIONS else ""
    rows = await fetch_plain(connection, PUBLICATIONS.format(of_schemas=of_schemas), oids=list(oids))
    ours = await noted(connection, "publication")
    return [_dependent(each | {"oid": 0}) for each in rows if each["name"] not in ours]


def _dependent(row: Mapping[str, Any]) -> Dependent:
    others = {name: value for name, value in row.items() if name not in ("schema", "table", "name", "called_by")}
    name = Name(schema=row["schema"], table=row["table"])
    return Dependent(table=name, called_by=tuple(row.get("called_by") or ()), **others)
