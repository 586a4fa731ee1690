"""Facts about who may do what with the new tables, beside the old ones: what is lost is an outage, or a leak."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from replicator.core.name_map import NameMap
from replicator.core.tables import Name
from replicator.errors import NotReadyError
from replicator.migration import Migration
from replicator.postgres.catalog.protection import (
    Lack,
    Policy,
    Protection,
    Right,
    read_lacks,
    read_protection,
    read_rights,
)
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.ddl.rewriting import with_names, wording
from replicator.postgres.locking.trees import oids_by_name
from replicator.postgres.session.connect import Connection
from replicator.preflight.facts import Consequence, Fact, wrong
from replicator.preflight.finding import Report, Verdict, failed, listed, passed, warned

COMMANDS: Final = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}
"""As in pg_policy.polcmd."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An old table and a new one that gets its rows.

    :param declared: the old table's name in the migration.
    :param columns: the names of its columns that are others in the new one.
    :param lacks: what each role lacks to do with the new table what it may do with the old one.
    """

    declared: str
    old: Protection
    new: Protection
    columns: Mapping[str, str]
    lacks: tuple[tuple[Right, tuple[Lack, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class SecuritySubject:
    """All such pairs, and what the migration accepts to lose."""

    pairs: tuple[Pair, ...]
    accept: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Lost:
    """One thing that is lost; ``name`` is how ``accept`` names it; ``statements`` without their semicolons."""

    name: str
    said: str
    statements: tuple[str, ...]


Loss = Callable[[Pair], Iterator[Lost]]


def row_security(subject: SecuritySubject) -> Verdict | None:
    """Without it every role that may read the new table reads all of its rows, whatever the policies of the old one."""
    return _verdict(subject, lost_row_security, "row security is on where it was on")


def policies(subject: SecuritySubject) -> Verdict | None:
    """A policy that is lost, or one more that lets rows through, shows rows to who must not see them."""
    return _verdict(subject, lost_policies, "each policy of the old tables is on the new ones")


def grants(subject: SecuritySubject) -> Verdict | None:
    """A role that could write to the old table, and may not write to the new one, is an outage from the cutover on."""
    return _verdict(subject, lost_grants, "each role may do what it could")


FACTS: Final[tuple[Fact[SecuritySubject], ...]] = (
    Fact(row_security, Consequence.SHUT),
    Fact(policies, Consequence.SHUT),
    Fact(grants, Consequence.SHUT),
)
"""Of old and new tables together, while the old schema owns the data."""


def lost_row_security(pair: Pair) -> Iterator[Lost]:
    """Row security that is enabled, or forced upon the owner, on the old table alone."""
    for what, word, was, now in (
        ("row security", "ENABLE", pair.old.secured, pair.new.secured),
        ("forced row security", "FORCE", pair.old.forced, pair.new.forced),
    ):
        if was and not now:
            statement = f"ALTER TABLE {pair.new.quoted} {word} ROW LEVEL SECURITY"
            yield Lost(name=f"{what} {pair.declared}", said=f"{what} of {pair.old.quoted}", statements=(statement,))


def lost_policies(pair: Pair) -> Iterator[Lost]:
    """Policies of the old table that the new one has not; and, of a protected one, those that only the new one has."""
    if not pair.old.secured:
        return
    names = {**pair.columns, pair.declared: pair.new.quoted.rsplit(".", 1)[-1].strip('"')}
    wanted = {_meaning(each, names): each for each in pair.old.policies}
    there = {_meaning(each, {}): each for each in pair.new.policies}
    for meaning, each in wanted.items():
        if meaning not in there:
            yield Lost(
                name=f"policy {pair.declared}.{each.name}",
                said=f"the policy {each.quoted} of {pair.old.quoted} is not on {pair.new.quoted}",
                statements=_statements(each, pair.new, names),
            )
    for meaning, each in there.items():
        if meaning not in wanted and each.permissive:
            drop = f"DROP POLICY {each.quoted} ON {pair.new.quoted}"
            yield Lost(
                name=f"policy {pair.declared}.{each.name}",
                said=f"the policy {each.quoted} of {pair.new.quoted} lets through what none of {pair.old.quoted} does",
                statements=(drop,),
            )


def lost_grants(pair: Pair) -> Iterator[Lost]:
    """What each role may do with the old table, and not with the new one."""
    by_role: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for right, lacks in pair.lacks:
        role = right.role or "PUBLIC"
        for each in lacks:
            name = f"usage {each.privilege}.{role}" if each.of == "schema" else f"grant {pair.declared}.{role}"
            said, statements = by_role.setdefault((name, role), ([], []))
            said.append(
                {"table": f"{each.privilege} on {pair.new.quoted}"}.get(each.of, f"USAGE on {each.of} {each.privilege}")
            )
            statements.append(each.statement)
    for (name, role), (said, statements) in by_role.items():
        yield Lost(
            name=name,
            said=f"{role} lacks {listed(dict.fromkeys(said))}",
            statements=tuple(dict.fromkeys(statements)),
        )


LOSSES: Final = (lost_row_security, lost_policies, lost_grants)


def unused(found: SecuritySubject) -> list[str]:
    """What ``accept`` names and is not lost."""
    lost = {each.name for pair in found.pairs for loss in LOSSES for each in loss(pair)}
    return sorted(found.accept - lost)


def _verdict(subject: SecuritySubject, loss: Loss, fine: str) -> Verdict | None:
    if not subject.pairs:
        return None
    found: dict[str, Lost] = {}
    for pair in subject.pairs:
        for each in loss(pair):
            if each.name not in subject.accept:
                found.setdefault(f"{each.name} {each.said}", each)
    if not found:
        return passed(fine)
    names = dict.fromkeys(each.name for each in found.values())
    statements = dict.fromkeys(f"{line};" for each in found.values() for line in each.statements)
    said = "; ".join(each.said for each in found.values())
    return failed(
        f"Lost with the cutover: {said}.",
        "In sql/new, and at once where the new tables are there; `replicator check` has the statements:"
        if not statements
        else "In sql/new, and at once where the new tables are there:",
        *statements,
        f"Or accept the loss: Migration(..., accept={[*names]!r}).",
    )


def _meaning(policy: Policy, names: Mapping[str, str]) -> tuple[object, ...]:
    texts = (None if each is None else wording(each, names) for each in (policy.visible, policy.checked))
    return (policy.permissive, policy.command, policy.roles, *texts)


def _statements(policy: Policy, new: Protection, names: Mapping[str, str]) -> tuple[str, ...]:
    if policy.visible == "" or policy.checked == "":  # the texts were not read
        return ()
    text = f"CREATE POLICY {policy.quoted} ON {new.quoted}"
    text += "" if policy.permissive else " AS RESTRICTIVE"
    text += f" FOR {COMMANDS[policy.command]} TO {', '.join(policy.roles)}"
    text += f" USING ({with_names(policy.visible, names)})" if policy.visible else ""
    text += f" WITH CHECK ({with_names(policy.checked, names)})" if policy.checked else ""
    return (text,)


# ---- reading


async def tell(report: Report, migration: Migration, old: Connection, new: Connection, *, refuses: bool) -> None:
    """For ``check``: a finding for each fact, and for what ``accept`` names in vain.

    :param refuses: the daemon must not start. Later it keeps a gate shut: a daemon that did not start would follow
        nothing.
    """
    subject = await security_subject(migration, old, new, texts=True)
    for fact in FACTS:
        verdict = fact.judge(subject)
        if verdict is not None:
            report.say(f"security.{fact.name}", verdict, refuses=refuses)
    if names := unused(subject):
        problem = f"accept= names what is not lost, or not there: {listed(names)}."
        report.say("security.accept", warned(problem, "Take it out, or correct it."))


async def refuse_losses(migration: Migration, old: Connection, new: Connection) -> None:
    """With the conditions of policies, which no look at the ground reads. Raises NotReadyError for the first loss."""
    subject = await security_subject(migration, old, new, texts=True)
    for each in wrong("security", FACTS, subject):
        raise NotReadyError(each.problem, each.remedy)


async def security_subject(migration: Migration, old: Connection, new: Connection, *, texts: bool) -> SecuritySubject:
    """What there is now; tables that are not there yet are left out.

    :param texts: the conditions of policies too; that may wait for a lock.
    """
    places, there = await read_places(old), await read_places(new)
    named = successors(migration)
    was = await _oids(old, places, migration.old, {source for source, _ in named})
    now = await _oids(new, there, migration.new, {into for _, into in named})
    before = await read_protection(old, list(was.values()), texts=texts)
    after = await read_protection(new, list(now.values()), texts=texts)
    rights = await read_rights(old, list(was.values()))
    pairs = [(source, into) for source, into in named if source in was and into in now]
    wanted = [
        (place, now[into], right)
        for place, (source, into) in enumerate(pairs)
        for right in rights
        if right.oid == was[source]
    ]
    lacks = await read_lacks(new, [(oid, right) for _, oid, right in wanted])
    found: dict[int, list[tuple[Right, tuple[Lack, ...]]]] = {}
    for (place, _, right), each in zip(wanted, lacks, strict=True):
        if each:
            found.setdefault(place, []).append((right, tuple(each)))
    return SecuritySubject(
        pairs=tuple(
            Pair(
                declared=source,
                old=before[was[source]],
                new=after[now[into]],
                columns=_renamed(migration, source, into),
                lacks=tuple(found.get(place, ())),
            )
            for place, (source, into) in enumerate(pairs)
        ),
        accept=frozenset(migration.accept),
    )


def successors(migration: Migration) -> list[tuple[str, str]]:
    """Each old table with each new one that gets its rows, by their names; those that are left keep their own."""
    found: dict[tuple[str, str], None] = {}
    for each in migration.of("forward"):
        sources = [each.source] if isinstance(each.source, str) else list(each.source.depends_on)
        found |= {(source, each.into): None for source in sources if source not in migration.left}
    return list(found)


def _renamed(migration: Migration, source: str, into: str) -> dict[str, str]:
    copies = [each for each in migration.copies if (each.source, each.into) == (source, into)]
    return dict(copies[0].rename) if len(copies) == 1 else {}


async def _oids(connection: Connection, places: NameMap, schema: str, tables: set[str]) -> dict[str, int]:
    names = {places.now(Name(schema=schema, table=each)): each for each in sorted(tables)}
    return {names[name]: oid for name, oid in (await oids_by_name(connection, names)).items()}
