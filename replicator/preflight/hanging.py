"""What hangs on the old tables, and what becomes of it at the cutover and afterwards; with SQL where there is some."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from replicator.core.tables import Name
from replicator.postgres.attached.redirecting import Redirection, redirection
from replicator.postgres.catalog.dependents import Dependent, read_dependents
from replicator.postgres.session.connect import Connection
from replicator.preflight.finding import Report, Verdict, listed, passed, warned

Strategy = Literal["schema", "rename"]

ALL_TABLES: Final = "publication of all tables"
THEN: Final = {
    "view": "goes on reading it",
    "materialized view": "reads it at each REFRESH",
    "function": "goes on using it",
    "procedure": "goes on using it",
    "rule": "goes on reading it",
    "policy": "goes on reading it",
    "parent table": "goes on showing its rows",
    "default value": "goes on drawing from its sequence: the new table has another one",
    "table column": "keeps its row type",
    "publication": "goes on publishing it, and does not publish the new table",
    "publication of a schema": "goes on publishing it, and publishes the new table only once that is in the schema",
    ALL_TABLES: "publishes the new tables and the control tables too, from the first start on: a "
    "subscription that lacks them ends with an error",
}
"""By what it is. Tried, each of them, in ``test_hanging``."""
OTHERWISE: Final = "goes on using it"
PUBLICATIONS: Final = frozenset({"publication", "publication of a schema"})


@dataclass(frozen=True, kw_only=True)
class Hanging:
    """One thing that hangs on an old table.

    :param table: the old table.
    :param what: ``view public.names``.
    :param then: what happens to it at the cutover and afterwards, in words; "it" is the old table.
    :param stays: it goes on with the old table for certain; else that hangs on a name, or it is about all tables.
    :param cutover: statements for ``sql/cutover`` that let it use the new table; ``rollback`` likewise.
    :param why: why there are none, where they were looked for.
    """

    table: str
    what: str
    then: str
    stays: bool = True
    cutover: tuple[str, ...] = ()
    rollback: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the sentences depend on.

    :param strategy: of the cutover; None: not known yet.
    :param places: by old table, the new one that takes its place.
    :param kept: the old tables that the way back writes to.
    :param together: both schemas are in one database.
    """

    strategy: Strategy | None
    places: Mapping[Name, Name]
    kept: frozenset[Name]
    together: bool


async def read_hanging(
    connection: Connection, oids: Mapping[int, Name], scene: Scene, *, statements: Connection | None
) -> list[Hanging]:
    """What hangs on the old tables, given by their oids and the names that they have before the cutover.

    :param statements: in whose transaction the new tables are; None: no SQL is made.
    """
    found = await read_dependents(connection, oids)
    told = []
    for each in found:
        turned = None
        if statements is not None and scene.together:
            turned = await _redirected(statements, each, found, scene)
        told.append(
            Hanging(
                table=str(oids[each.root]),
                what=_named(each),
                then=then(each, scene.strategy),
                stays=not each.hint and each.kind != ALL_TABLES,
                cutover=tuple(turned.cutover) if turned else (),
                rollback=tuple(turned.rollback) if turned else (),
                why=turned.why if turned else "",
            )
        )
    return told


async def _redirected(
    connection: Connection, each: Dependent, found: Sequence[Dependent], scene: Scene
) -> Redirection | None:
    tables = {other.table for other in found if (other.kind, other.oid) == (each.kind, each.oid)}
    homeless = sorted(str(name) for name in tables - scene.places.keys())
    if homeless and not each.hint and each.level == 1:
        return Redirection(why=f"no single new table takes the place of {listed(homeless)}")
    return await redirection(connection, each, scene.places, renamed=scene.strategy == "rename")


def _named(each: Dependent) -> str:
    calls = f" (called by the trigger {listed(each.called_by)})" if each.called_by else ""
    return f"{each}{calls}"


def then(each: Dependent, strategy: Strategy | None) -> str:
    """What happens to it at the cutover, and afterwards; "it" is the old table."""
    if each.hint:
        told = "has its name in the text, which is all that is known"
        stays = "if it means that table, it goes on with the old one, and what it writes there is refused"
        if each.called_by:
            stays += ", with the statement that the trigger is for"
        follows = "it finds the new table by that name"
        choice = {"schema": stays, "rename": follows, None: f"{stays}; with --strategy rename {follows}"}
        return f"{told}: {choice[strategy]}"
    told = THEN.get(each.kind, OTHERWISE)
    if each.writable:
        told += "; what is written through it is refused"
    if each.kind in PUBLICATIONS and strategy != "schema":
        renamed = "" if strategy else "with --strategy rename "
        told += f"; {renamed}a subscription that lacks a table of its new name ends with an error"
    return told


def fate(table: Name, scene: Scene) -> str:
    """What becomes of an old table itself."""
    still = "stands still from then on"
    if table in scene.kept:
        still = "is kept in step until `replicator finalize`, and stands still from then on"
    name = f"{table}_old"
    renamed = {
        "schema": "",
        "rename": f", under the name {name}",
        None: f"; with --strategy rename it is called {name} then",
    }[scene.strategy]
    return f"From the cutover on {table} takes no writes (RP002); it {still}{renamed}."


# ---- for ``check``


def hanging(found: Sequence[Hanging], about: str) -> Verdict:
    """Nothing freezes or vanishes in silence: what goes on using an old table is named while it can be changed.

    :param about: the fate of the table that these hang on.
    """
    by_fate: dict[str, list[str]] = {}
    for each in found:
        by_fate.setdefault(each.then, []).append(each.what)
    said = " ".join(f"{_sentence(listed(what))}: {then}." for then, what in by_fate.items())
    return warned(f"{about} {said}", *_remedy(found))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _remedy(found: Sequence[Hanging]) -> list[str]:
    lines = ["Say in sql/cutover and sql/rollback what each is to use instead; or let it be, if it is to be so."]
    ready = [each for each in found if each.cutover]
    if ready:
        lines.append("In sql/cutover; for --strategy rename with the old names, which the new tables have then:")
        lines += dict.fromkeys(f"{statement};" for each in ready for statement in each.cutover)
        lines.append("In sql/rollback:")
        lines += dict.fromkeys(f"{statement};" for each in ready for statement in each.rollback)
    lines += [f"No ready statement for the {each.what}: {each.why.rstrip('.')}." for each in found if each.why]
    return lines


def tell(report: Report, found: Sequence[Hanging], tables: Iterable[Name], scene: Scene) -> None:
    """A finding for each table that something hangs on; one, where nothing does."""
    for table in tables:
        if of := [each for each in found if each.table == str(table)]:
            report.say(f"hanging.{table}", hanging(of, fate(table, scene)))
    if not found:
        report.say("hanging", passed("nothing but foreign keys uses an old table"))
