"""Who may do what with tables: row security, policies, grants. Read for two tables, to be compared.

No query here waits for a lock, unless it reads the texts of policies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from replicator.postgres.session.connect import Connection
from replicator.postgres.session.server import fetch_plain

POLICIES: Final = """
    SELECT c.oid::int8, format('%%I.%%I', n.nspname, c.relname) AS quoted,
           c.relrowsecurity AS secured, c.relforcerowsecurity AS forced,
           ARRAY(SELECT jsonb_build_object('name', p.polname, 'quoted', quote_ident(p.polname),
                     'permissive', p.polpermissive, 'command', p.polcmd,
                     'roles', ARRAY(SELECT CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END
                                    FROM unnest(p.polroles) r ORDER BY 1),
                     'visible', CASE WHEN p.polqual IS NOT NULL THEN {visible} END,
                     'checked', CASE WHEN p.polwithcheck IS NOT NULL THEN {checked} END)
                 FROM pg_policy p WHERE p.polrelid = c.oid ORDER BY p.polname) AS policies
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY (%(oids)s::oid[])
"""

# What roles may do that somebody works as: superusers, we, and an owner that nobody else is a member of, do not count.
GRANTED: Final = """
    WITH given AS (
        SELECT c.oid, c.relnamespace, '' AS part, a.grantee, a.privilege_type AS privilege
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.oid = ANY (%(oids)s::oid[]) AND a.grantee <> c.relowner
        UNION SELECT c.oid, c.relnamespace, '', c.relowner, p FROM pg_class c
        CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) p
        WHERE c.oid = ANY (%(oids)s::oid[]) AND has_table_privilege(c.relowner, c.oid, p)
        UNION SELECT c.oid, c.relnamespace, t.attname, a.grantee, a.privilege_type
        FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid CROSS JOIN LATERAL aclexplode(t.attacl) a
        WHERE c.oid = ANY (%(oids)s::oid[]) AND NOT t.attisdropped
    )
    SELECT g.oid::int8, g.part, coalesce(r.rolname, '') AS role, g.privilege,
           CASE WHEN r.oid IS NOT NULL THEN has_schema_privilege(r.oid, g.relnamespace, 'USAGE')
                ELSE EXISTS (SELECT FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
                             WHERE n.oid = g.relnamespace AND a.grantee = 0 AND a.privilege_type = 'USAGE')
           END AS reaches
    FROM given g LEFT JOIN pg_roles r ON r.oid = g.grantee
    WHERE g.privilege IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
      AND (g.grantee = 0 OR NOT r.rolsuper AND r.rolname <> current_user AND (r.rolcanlogin OR EXISTS (
              SELECT FROM pg_auth_members m JOIN pg_roles u ON u.oid = m.member
              WHERE m.roleid = r.oid AND u.rolname <> current_user)))
    ORDER BY 1, 3, 2, 4
"""

LACKING: Final = """
    WITH wanted AS (
        SELECT w.*, c.relname, c.relnamespace, c.relacl, n.nspname, n.nspacl, r.oid AS role_oid,
               CASE w.role WHEN '' THEN 'PUBLIC' ELSE quote_ident(w.role) END AS quoted
        FROM unnest(%(places)s::int4[], %(oids)s::oid[], %(roles)s::text[], %(privileges)s::text[], %(parts)s::text[])
             AS w(place, oid, role, privilege, part)
        JOIN pg_class c ON c.oid = w.oid JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_roles r ON r.rolname = w.role
    )
    SELECT w.place, 'table' AS of, w.privilege,
           format('GRANT %%s ON %%I.%%I TO %%s', w.privilege, w.nspname, w.relname, w.quoted) AS statement
    FROM wanted w WHERE NOT CASE
        WHEN w.role = '' THEN EXISTS (SELECT FROM aclexplode(w.relacl) a
                                      WHERE a.grantee = 0 AND a.privilege_type = w.privilege)
            OR w.part <> '' AND EXISTS (SELECT FROM pg_attribute t CROSS JOIN LATERAL aclexplode(t.attacl) a
                                        WHERE t.attrelid = w.oid AND a.grantee = 0 AND a.privilege_type = w.privilege)
        WHEN w.role_oid IS NULL THEN false
        WHEN has_table_privilege(w.role_oid, w.oid, w.privilege) THEN true
        WHEN w.part = '' THEN false
        WHEN EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = w.oid AND t.attname = w.part AND NOT t.attisdropped)
            THEN has_column_privilege(w.role_oid, w.oid, w.part, w.privilege)
        ELSE has_any_column_privilege(w.role_oid, w.oid, w.privilege) END
    UNION ALL
    SELECT w.place, 'schema', quote_ident(w.nspname), format('GRANT USAGE ON SCHEMA %%I TO %%s', w.nspname, w.quoted)
    FROM wanted w WHERE NOT CASE
        WHEN w.role = '' THEN EXISTS (SELECT FROM aclexplode(w.nspacl) a
                                      WHERE a.grantee = 0 AND a.privilege_type = 'USAGE')
        WHEN w.role_oid IS NULL THEN false
        ELSE has_schema_privilege(w.role_oid, w.relnamespace, 'USAGE') END
    UNION ALL
    SELECT w.place, 'sequence', format('%%I.%%I', sn.nspname, s.relname),
           format('GRANT USAGE ON SEQUENCE %%I.%%I TO %%s', sn.nspname, s.relname, w.quoted)
    FROM wanted w JOIN pg_depend d ON d.refobjid = w.oid AND d.refclassid = 'pg_class'::regclass
         AND d.classid = 'pg_class'::regclass AND d.deptype = 'a'
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
    WHERE w.privilege = 'INSERT' AND NOT CASE
        WHEN w.role = '' THEN EXISTS (SELECT FROM aclexplode(s.relacl) a
                                      WHERE a.grantee = 0 AND a.privilege_type IN ('USAGE', 'UPDATE'))
        WHEN w.role_oid IS NULL THEN false
        ELSE has_sequence_privilege(w.role_oid, s.oid, 'USAGE') OR has_sequence_privilege(w.role_oid, s.oid, 'UPDATE')
        END
    ORDER BY 1, 2, 3
"""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One policy. ``command`` is as in pg_policy.

    The conditions are empty where they were not read, and None where it has none.
    """

    name: str
    quoted: str
    permissive: bool
    command: str
    roles: tuple[str, ...]
    visible: str | None
    checked: str | None


@dataclass(frozen=True, kw_only=True)
class Protection:
    """Row security of one table; ``quoted`` is its name for SQL."""

    oid: int
    quoted: str
    secured: bool
    forced: bool
    policies: tuple[Policy, ...]


@dataclass(frozen=True, kw_only=True)
class Right:
    """What a role may do with a table, or with one column of it.

    ``role`` is empty for PUBLIC; ``reaches``: it may use the table's schema.
    """

    oid: int
    part: str
    role: str
    privilege: str
    reaches: bool


@dataclass(frozen=True, kw_only=True)
class Lack:
    """What a role may not do: a privilege on the ``table``; or using the ``schema`` or ``sequence`` of that name."""

    of: str
    privilege: str
    statement: str


async def read_protection(connection: Connection, oids: Sequence[int], *, texts: bool) -> dict[int, Protection]:
    """Of each of these tables.

    :param texts: the conditions of policies too; that waits for whoever has locked a table against readers.
    """
    visible, checked = "pg_get_expr(p.polqual, p.polrelid)", "pg_get_expr(p.polwithcheck, p.polrelid)"
    query = POLICIES.format(visible=visible if texts else "''", checked=checked if texts else "''")
    return {
        row["oid"]: Protection(
            **row | {"policies": tuple(Policy(**each | {"roles": tuple(each["roles"])}) for each in row["policies"])}
        )
        for row in await fetch_plain(connection, query, oids=list(oids))
    }


async def read_rights(connection: Connection, oids: Sequence[int]) -> list[Right]:
    """What roles may do with these tables."""
    return [Right(**row) for row in await fetch_plain(connection, GRANTED, oids=list(oids))]


async def read_lacks(connection: Connection, wanted: Sequence[tuple[int, Right]]) -> list[list[Lack]]:
    """For each of these tables, by oid, and rights on others: what the role lacks to do the same with it."""
    found: list[list[Lack]] = [[] for _ in wanted]
    rows = await fetch_plain(
        connection,
        LACKING,
        places=list(range(len(wanted))),
        oids=[oid for oid, _ in wanted],
        roles=[each.role for _, each in wanted],
        privileges=[each.privilege for _, each in wanted],
        parts=[each.part for _, each in wanted],
    )
    for row in rows:
        place = row.pop("place")
        if row["of"] != "schema" or wanted[place][1].reaches:
            found[place].append(Lack(**row))
    return found
