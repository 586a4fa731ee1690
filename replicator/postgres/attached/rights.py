"""Grants, comments and membership in publications."""

from collections.abc import Iterator
from typing import Any, Final

from replicator.postgres.attached.deparsed import literal
from replicator.postgres.attached.item import Attached, Beside, Own, Text

# What the owner has by himself is no grant; what he has taken from himself is a revocation.
GRANTS: Final = """
    WITH rights AS (
        SELECT c.oid, c.relowner AS owner, 'table' AS of, '' AS name, NULL AS column, c.relacl AS acl, 'r' AS type
        FROM pg_class c WHERE c.oid = ANY (%(oids)s::oid[])
        UNION ALL
        SELECT a.attrelid, c.relowner, 'column', a.attname, quote_ident(a.attname), a.attacl, 'c'
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attacl IS NOT NULL
        UNION ALL
        SELECT d.refobjid, s.relowner, 'sequence', s.relname, NULL, s.relacl, 's'
        FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
          AND d.refobjsubid > 0 AND d.refobjid = ANY (%(oids)s::oid[])
    ), given AS (
        SELECT r.oid, r.of, r.name, r.column, x.privilege_type AS privilege, x.is_grantable AS grantable,
               CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS role,
               true AS granted
        FROM rights r CROSS JOIN LATERAL aclexplode(r.acl) x WHERE x.grantee <> r.owner
        UNION ALL
        SELECT r.oid, r.of, r.name, r.column, x.privilege_type, false, quote_ident(pg_get_userbyid(x.grantee)), false
        FROM rights r CROSS JOIN LATERAL aclexplode(acldefault(r.type::"char", r.owner)) x
        WHERE r.acl IS NOT NULL AND r.type <> 'c' AND x.grantee = r.owner AND NOT EXISTS (
            SELECT FROM aclexplode(r.acl) y WHERE y.grantee = r.owner AND y.privilege_type = x.privilege_type)
    )
    SELECT oid::int8 AS oid, of, name, "column", privilege, bool_or(grantable) AS grantable, role, granted FROM given
    GROUP BY given.oid, of, name, "column", privilege, role, granted
    ORDER BY given.oid, of = 'sequence', of = 'column', name, role, granted, privilege
"""

COMMENTS: Final = """
    SELECT found.oid::int8 AS oid, found.of, found.name, found.quoted_name, d.description AS text FROM (
        SELECT c.oid, 'table' AS of, '' AS name, '' AS quoted_name, 'pg_class'::regclass AS class, c.oid AS object,
               0 AS part FROM pg_class c WHERE c.oid = ANY (%(oids)s::oid[])
        UNION ALL SELECT a.attrelid, 'column', a.attname, quote_ident(a.attname), 'pg_class'::regclass, a.attrelid,
               a.attnum FROM pg_attribute a WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0
               AND NOT a.attisdropped
        UNION ALL SELECT x.indrelid, 'index', i.relname, '', 'pg_class'::regclass, i.oid, 0
               FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
               WHERE x.indrelid = ANY (%(oids)s::oid[]) AND x.indisvalid AND NOT i.relispartition
        UNION ALL SELECT p.refobjid, 'sequence', s.relname, '', 'pg_class'::regclass, s.oid, 0
               FROM pg_depend p JOIN pg_class s ON s.oid = p.objid AND s.relkind = 'S'
               WHERE p.classid = 'pg_class'::regclass AND p.refclassid = 'pg_class'::regclass
               AND p.deptype IN ('a', 'i') AND p.refobjsubid > 0 AND p.refobjid = ANY (%(oids)s::oid[])
        UNION ALL SELECT k.conrelid, 'constraint', k.conname, '', 'pg_constraint'::regclass, k.oid, 0
               FROM pg_constraint k WHERE k.conrelid = ANY (%(oids)s::oid[]) AND k.contype IN ('c', 'p', 'u', 'x', 'f')
               AND k.conparentid = 0 AND k.conislocal
        UNION ALL SELECT t.tgrelid, 'trigger', t.tgname, '', 'pg_trigger'::regclass, t.oid, 0 FROM pg_trigger t
               WHERE t.tgrelid = ANY (%(oids)s::oid[]) AND NOT t.tgisinternal AND t.tgparentid = 0
        UNION ALL SELECT r.ev_class, 'rule', r.rulename, '', 'pg_rewrite'::regclass, r.oid, 0 FROM pg_rewrite r
               WHERE r.ev_class = ANY (%(oids)s::oid[])
        UNION ALL SELECT p.polrelid, 'policy', p.polname, '', 'pg_policy'::regclass, p.oid, 0 FROM pg_policy p
               WHERE p.polrelid = ANY (%(oids)s::oid[])
        UNION ALL SELECT s.stxrelid, 'statistics', s.stxname, '', 'pg_statistic_ext'::regclass, s.oid, 0
               FROM pg_statistic_ext s WHERE s.stxrelid = ANY (%(oids)s::oid[])
    ) AS found JOIN pg_description d ON d.classoid = found.class AND d.objoid = found.object AND d.objsubid = found.part
    ORDER BY 1, 2, 3
"""

# Of a publication of all tables, every table is a member. Ours are not the application's.
PUBLICATIONS: Final = """
    SELECT r.prrelid::int8 AS oid, p.pubname AS name, quote_ident(p.pubname) AS quoted_name, {condition} AS condition,
           ARRAY(SELECT quote_ident(a.attname) FROM unnest({columns}) WITH ORDINALITY u(number, place)
                 JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = u.number ORDER BY u.place) AS columns
    FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
    WHERE r.prrelid = ANY (%(oids)s::oid[]) AND p.pubname <> ALL (%(ours)s::text[])
    ORDER BY 1, 2
"""
OF_SCHEMAS: Final = """
    SELECT c.oid::int8 AS oid, p.pubname AS name, quote_ident(p.pubname) AS quoted_name, NULL AS condition,
           '{{}}'::text[] AS columns
    FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid JOIN pg_class c
    ON c.relnamespace = s.pnnspid WHERE c.oid = ANY (%(oids)s::oid[]) AND p.pubname <> ALL (%(ours)s::text[])
    ORDER BY 1, 2
"""


def of_grant(row: dict[str, Any]) -> Iterator[tuple[int, Attached]]:
    """What a row of ``GRANTS`` says, with the table's oid: one privilege of one role."""
    privilege = f"{row['privilege']} ({row['column']})" if row["of"] == "column" else row["privilege"]
    target: Text = (" ON TABLE ", Own.TABLE)
    if row["of"] == "sequence":
        target = (" ON SEQUENCE ", Beside(row["name"]))
    if row["granted"]:
        end = f" TO {row['role']}{' WITH GRANT OPTION' if row['grantable'] else ''}"
        text: Text = ("GRANT ", privilege, *target, end)
    else:
        text = ("REVOKE ", privilege, *target, f" FROM {row['role']}")
    shown = f"{privilege}{'' if row['granted'] else ' (revoked)'} {row['role']}"
    columns = (row["name"],) if row["of"] == "column" else ()
    yield row["oid"], Attached(kind="grant", name=shown, of=row["of"], columns=columns, statements=(text,))


def of_comment(row: dict[str, Any]) -> Iterator[tuple[int, Attached]]:
    """What a row of ``COMMENTS`` says, with the table's oid."""
    what, end = row["of"].upper(), f" IS {literal(row['text'])}"
    columns: tuple[str, ...] = ()
    match row["of"]:
        case "table":
            target: Text = (Own.TABLE,)
        case "column":
            target, columns = (Own.TABLE, f".{row['quoted_name']}"), (row["name"],)
        case "index" | "sequence" | "statistics":
            target = (Beside(row["name"]),)
        case _:
            target = (Own.NAME, " ON ", Own.TABLE)
    text: Text = (f"COMMENT ON {what} ", *target, end)
    yield row["oid"], Attached(kind="comment", name=row["name"], of=row["of"], columns=columns, statements=(text,))


def of_publication(row: dict[str, Any]) -> Iterator[tuple[int, Attached]]:
    """What a row of ``PUBLICATIONS`` says, with the table's oid."""
    columns = f" ({', '.join(row['columns'])})" if row["columns"] else ""
    condition = f" WHERE ({row['condition']})" if row["condition"] else ""
    text: Text = (f"ALTER PUBLICATION {row['quoted_name']} ADD TABLE ", Own.TABLE, columns + condition)
    yield row["oid"], Attached(kind="publication", name=row["name"], statements=(text,))
