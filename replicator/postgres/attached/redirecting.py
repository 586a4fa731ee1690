"""SQL that lets what reads an old table read the new one, for ``sql/cutover`` and ``sql/rollback``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg import sql

from replicator.core.name_map import NameMap
from replicator.core.tables import Name
from replicator.errors import ReplicatorError
from replicator.postgres.attached.reader import attached_to
from replicator.postgres.catalog.dependents import Dependent
from replicator.postgres.ddl.renames import SUFFIX
from replicator.postgres.ddl.rewriting import in_one_line, named, rewritten
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.session.server import fetch_plain
from replicator.postgres.session.wording import said

TRIAL: Final = "pg_temp.replicator_trial"

VIEW: Final = """
    SELECT pg_get_viewdef(c.oid) AS body, c.relkind = 'm' AS materialized,
           quote_ident(pg_get_userbyid(c.relowner)) AS owner, pg_get_userbyid(c.relowner) = current_user AS mine,
           c.relowner::int8 AS owner_oid,
           ARRAY(SELECT o FROM unnest(c.reloptions) o) AS options,
           ARRAY(SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i WHERE i.indrelid = c.oid ORDER BY 1) AS indexes,
           ARRAY(SELECT format('GRANT %%s ON %%s TO %%s', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type),
                               %(identity)s::text, CASE a.grantee WHEN 0 THEN 'PUBLIC'
                               ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
                 FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner GROUP BY a.grantee ORDER BY 1) AS grants,
           obj_description(c.oid, 'pg_class') AS comment
    FROM pg_class c WHERE c.oid = %(oid)s
"""
FUNCTION: Final = "SELECT pg_get_functiondef(%(oid)s::oid) AS body"
RULE: Final = "SELECT pg_get_ruledef(%(oid)s::oid) AS body"
POLICY: Final = """
    SELECT format('ALTER POLICY %%I ON %%s', polname, polrelid::regclass) AS alter,
           pg_get_expr(polqual, polrelid) AS visible, pg_get_expr(polwithcheck, polrelid) AS checked
    FROM pg_policy WHERE oid = %(oid)s
"""
COLUMNS: Final = """
    SELECT attname::text AS name, atttypid::int8 AS type, atttypmod AS modifier, attcollation::int8 AS collation
    FROM pg_attribute WHERE attrelid = %(relation)s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
LACKING: Final = """
    SELECT privilege FROM unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) WITH ORDINALITY p(privilege, place)
    WHERE has_table_privilege(%(owner)s::oid, %(old)s, privilege)
      AND NOT has_table_privilege(%(owner)s::oid, %(new)s, privilege) ORDER BY place
"""


@dataclass(frozen=True, kw_only=True)
class Redirection:
    """Statements without their semicolons; none, where ``why`` says why not."""

    cutover: list[str] = field(default_factory=list)
    rollback: list[str] = field(default_factory=list)
    why: str = ""


async def redirection(
    connection: Connection, dependent: Dependent, places: Mapping[Name, Name], *, renamed: bool
) -> Redirection | None:
    """What to put into the two folders; None for what no statement of a cutover can turn to another table.

    Views are tried on a copy that is rolled back; the caller's transaction must have the new tables. What the
    application uses is not locked, save as by a reader.

    :param places: by old table, the new one that takes its place.
    :param renamed: for ``--strategy rename``: the new tables bear the old names then.
    """
    if dependent.hint or dependent.level > 1:
        return None
    try:
        return await _statements(connection, dependent, places, renamed=renamed)
    except ReplicatorError as error:
        cause = error.__cause__
        return Redirection(why=said(cause) if isinstance(cause, psycopg.Error) else error.problem)


async def _statements(
    connection: Connection, dependent: Dependent, places: Mapping[Name, Name], *, renamed: bool
) -> Redirection | None:
    found = NameMap(dict(places))
    match dependent.kind:
        case "view" | "materialized view":
            return await _view(connection, dependent, found, renamed=renamed)
        case "function" | "procedure":
            (row,) = await fetch_plain(connection, FUNCTION, oid=dependent.oid)
            return _both(row["body"], found, renamed=renamed)
        case "rule":
            (row,) = await fetch_plain(connection, RULE, oid=dependent.oid)
            body = row["body"].rstrip(";").replace("CREATE RULE", "CREATE OR REPLACE RULE", 1)
            return _both(body, found, renamed=renamed)
        case "policy":
            (row,) = await fetch_plain(connection, POLICY, oid=dependent.oid)
            visible = f" USING ({row['visible']})" if row["visible"] else ""
            checked = f" WITH CHECK ({row['checked']})" if row["checked"] else ""
            return _both(f"{row['alter']}{visible}{checked}", found, renamed=renamed)
        case "publication" if dependent.table in places:
            return await _publication(connection, dependent, places[dependent.table], renamed=renamed)
    return None


def _both(body: str, places: NameMap, *, renamed: bool) -> Redirection:
    body = in_one_line(body)
    return Redirection(cutover=[body if renamed else rewritten(body, places)], rollback=[body])


async def _publication(connection: Connection, dependent: Dependent, place: Name, *, renamed: bool) -> Redirection:
    """With the columns and the condition that it has: without them, it would publish what nobody was to see."""
    back, alter = dependent.table, f"ALTER PUBLICATION {dependent.identity}"
    leaves = Name(schema=back.schema, table=f"{back.table}{SUFFIX}") if renamed else back
    joins = back if renamed else place
    for each in (await attached_to(connection, {dependent.root: str(back)}))[str(back)]:
        added = [each.sql(name).rstrip(";") for name in (joins, back)]
        if each.kind == "publication" and added[0].startswith(f"{alter} ADD TABLE"):
            drops = [f"{alter} DROP TABLE {_quoted(connection, name)}" for name in (leaves, joins)]
            return Redirection(cutover=[drops[0], added[0]], rollback=[drops[1], added[1]])
    return Redirection(why="it publishes partitions of the table by their own names")


async def _view(connection: Connection, dependent: Dependent, places: NameMap, *, renamed: bool) -> Redirection:
    (row,) = await fetch_plain(connection, VIEW, oid=dependent.oid, identity=dependent.identity)
    body = in_one_line(row["body"].rstrip().rstrip(";"))
    turned = rewritten(body, places)
    alike = await _tried(connection, dependent, turned)
    plain = not row["materialized"] and alike
    then = body if renamed else turned
    read = {old: new for old, new in places.moved.items() if old in named(body, places.moved)}
    grants = await _grants(connection, row["owner_oid"], row["owner"], read, renamed=renamed)
    if plain:
        head = f"CREATE OR REPLACE VIEW {dependent.identity}{_options(row)} AS"
        return Redirection(cutover=[*grants, f"{head} {then}"], rollback=[f"{head} {body}"])
    return Redirection(cutover=[*grants, *_anew(dependent, row, then)], rollback=_anew(dependent, row, body))


def _anew(dependent: Dependent, row: Mapping[str, Any], body: str) -> list[str]:
    """A materialized view, or one whose columns have other types: Postgres replaces neither."""
    kind = "MATERIALIZED VIEW" if row["materialized"] else "VIEW"
    made = [f"DROP {kind} {dependent.identity}", f"CREATE {kind} {dependent.identity}{_options(row)} AS {body}"]
    made += row["indexes"]
    made += [] if row["mine"] else [f"ALTER {kind} {dependent.identity} OWNER TO {row['owner']}"]
    if row["comment"] is not None:
        made.append(f"COMMENT ON {kind} {dependent.identity} IS {sql.Literal(row['comment']).as_string()}")
    return made + list(row["grants"])


def _options(row: Mapping[str, Any]) -> str:
    return f" WITH ({', '.join(row['options'])})" if row["options"] else ""


async def _tried(connection: Connection, dependent: Dependent, body: str) -> bool:
    """Whether the new table gives the view the columns that it has. Raises ReplicatorError when it is refused there."""
    with translated():
        async with connection.transaction(force_rollback=True):
            await connection.execute(f"CREATE TEMP VIEW replicator_trial AS {body}".encode())
            had = await fetch_plain(connection, COLUMNS, relation=dependent.identity)
            return await fetch_plain(connection, COLUMNS, relation=TRIAL) == had


async def _grants(
    connection: Connection, owner: int, name: str, read: Mapping[Name, Name], *, renamed: bool
) -> list[str]:
    """A view reads with its owner's rights: what he may do with the old table, he must be allowed with the new one."""
    made = []
    for old, new in read.items():
        quoted = {"old": _quoted(connection, old), "new": _quoted(connection, new)}
        rows = await fetch_plain(connection, LACKING, owner=owner, **quoted)
        if rows:
            privileges = ", ".join(each["privilege"] for each in rows)
            made.append(f"GRANT {privileges} ON {quoted['old'] if renamed else quoted['new']} TO {name}")
    return made


def _quoted(connection: Connection, name: Name) -> str:
    return sql.Identifier(name.schema, name.table).as_string(connection)
