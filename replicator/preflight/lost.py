"""What belongs to an old table and not to the new one that takes its place: it acts no more from the cutover on."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final

from replicator.core.tables import Name
from replicator.postgres.attached import Attached, lacking
from replicator.postgres.attached.reader import attached_to
from replicator.postgres.locking.trees import oids_by_name
from replicator.postgres.session.connect import Connection
from replicator.postgres.session.server import fetch_plain
from replicator.preflight.finding import Report, Verdict, listed, passed, warned

THEN: Final[Mapping[str, str]] = {
    "trigger": "does not fire for what is written to the new table",
    "rule": "does not act on statements about the new table",
    "owner": "may use the new table only as it is granted, and not alter it",
    "comment": "is not on the new table",
    "statistics": "is not there for the planner",
    "statistics target": "is not there for the planner",
    "storage parameters": "do not hold for the new table",
    "storage": "does not hold for the new table",
    "compression": "does not hold for the new table",
    "column options": "do not hold for the new table",
    "replica identity": "is not the new table's: what follows the log is told less of a changed row",
    "clustering": "is not known of the new table",
    "tablespace": "is not the new table's",
}
"""By kind. What the author designs anew is not told of (columns, constraints, indexes); publications hang on the table
(``hanging``), and what is a matter of security has checks of its own (``security``)."""

DEFAULTS: Final = """
    SELECT quote_ident(pg_get_userbyid(d.defaclrole)) AS role, d.defaclobjtype AS kind,
           CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee,
           a.privilege_type AS privilege
    FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace
    CROSS JOIN LATERAL aclexplode(d.defaclacl) a
    WHERE n.nspname = %(schema)s AND d.defaclobjtype IN ('r', 'S') ORDER BY 1, 2, 3, 4
"""
OBJECTS: Final = {"r": "TABLES", "S": "SEQUENCES"}


@dataclass(frozen=True, kw_only=True)
class NotCarried:
    """One thing of an old table that the new one has not.

    :param table: the old table; or the old schema, for its default privileges.
    :param what: ``trigger audited``.
    :param then: what follows from it, in words.
    :param statements: what puts it on the new table, without their semicolons.
    :param security: there is a check that fails for it, unless it is accepted.
    """

    table: str
    into: str
    what: str
    then: str
    statements: tuple[str, ...] = ()
    security: bool = False


async def read_lost(
    old: Connection, new: Connection, successors: Mapping[Name, Sequence[Name]], *, sampled: bool = False
) -> list[NotCarried]:
    """Of these old tables, what none of their successors has. May wait for whoever has locked one of them.

    :param successors: by old table, the new one that takes its place; where there is none, those that get its rows.
    :param sampled: rows were written to the new ones in this transaction, for which triggers were switched off.
    """
    every = {name for names in successors.values() for name in names}
    was, now = await oids_by_name(old, successors), await oids_by_name(new, every)
    before = await attached_to(old, {oid: str(name) for name, oid in was.items()})
    after = await attached_to(new, {oid: str(name) for name, oid in now.items()})
    if sampled:
        after = {name: [_switched_on(each) for each in found] for name, found in after.items()}
    places = {name: into[0] for name, into in successors.items() if len(into) == 1}
    found: list[NotCarried] = []
    for name, names in successors.items():
        if name in was and names and all(each in now for each in names):
            left = list(before[str(name)])
            for into in names:
                left = lacking(left, after[str(into)], tables=places)
            columns = {each.name for into in names for each in after[str(into)] if each.kind == "column"}
            found += [_told(each, name, names) for each in left if _is_told(each, columns)]
    return found


def _switched_on(each: Attached) -> Attached:
    return replace(each, statements=each.statements[:1]) if each.kind == "trigger" else each


def _is_told(each: Attached, columns: AbstractSet[str]) -> bool:
    """Not what is about a column or a constraint that the new table may well have under another name."""
    unnamed = each.kind == "comment" and each.of not in ("table", "column", "trigger", "rule", "policy")
    return each.kind in THEN and set(each.columns) <= columns and not unnamed


def _told(each: Attached, name: Name, into: Sequence[Name]) -> NotCarried:
    text = each.sql(into[0])
    return NotCarried(
        table=str(name),
        into=listed(map(str, into)),
        what=str(each),
        then=THEN[each.kind],
        statements=tuple(line.rstrip(";") for line in text.split(";\n")) if text else (),
    )


async def read_lost_defaults(old: Connection, new: Connection, schemas: tuple[str, str]) -> list[NotCarried]:
    """Default privileges of the old schema that the new one has not: they are for tables that are made later."""
    was, now = [await fetch_plain(at, DEFAULTS, schema=name) for at, name in zip((old, new), schemas, strict=True)]
    found: dict[tuple[str, str, str], list[str]] = {}
    for each in was:
        if each not in now:
            found.setdefault((each["role"], each["kind"], each["grantee"]), []).append(each["privilege"])
    quoted = '"' + schemas[1].replace('"', '""') + '"'
    return [
        NotCarried(
            table=schemas[0],
            into=schemas[1],
            what=f"default privileges of {grantee} on {OBJECTS[kind].lower()} of {role}",
            then="do not hold for what is made in the new schema later",
            statements=(_default(role, kind, grantee, privileges, quoted),),
        )
        for (role, kind, grantee), privileges in found.items()
    ]


def _default(role: str, kind: str, grantee: str, privileges: Sequence[str], schema: str) -> str:
    what = f"GRANT {', '.join(privileges)} ON {OBJECTS[kind]} TO {grantee}"
    return f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} IN SCHEMA {schema} {what}"


def not_carried(found: Sequence[NotCarried]) -> Verdict:
    """What acts on an old table, and was forgotten on the new one, ends with the cutover, and nobody sees it end."""
    by_fate: dict[str, list[str]] = {}
    for each in found:
        by_fate.setdefault(each.then, []).append(each.what)
    said = " ".join(f"{_sentence(listed(what))}: {then}." for then, what in by_fate.items())
    statements = dict.fromkeys(f"{line};" for each in found for line in each.statements)
    return warned(f"Not carried over to {found[0].into}. {said}", "In sql/new:", *statements)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def tell(report: Report, found: Sequence[NotCarried]) -> None:
    """A finding for each table, or schema, of which something is lost; one, where nothing is."""
    for table in dict.fromkeys(each.table for each in found):
        report.say(f"not_carried.{table}", not_carried([each for each in found if each.table == table]))
    if not found:
        report.say("not_carried", passed("all that belongs to the old tables belongs to the new ones"))
