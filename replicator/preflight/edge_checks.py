"""Checks of foreign keys between the tables of the migration and others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from replicator.core.tables import Name
from replicator.postgres.catalog.edges import Edge, Plan, plan_edges, read_edges
from replicator.postgres.locking.trees import oids_by_name, oids_of
from replicator.postgres.session.connect import Connection
from replicator.preflight.finding import Verdict, failed, listed, passed

Tables = Mapping[Literal["old", "new"], Sequence[Name]]


def at_the_cutover(plan: Plan) -> Verdict:
    """Where a key joins a table that is kept in step and one that takes writes, the application's statements fail."""
    if plan.stuck:
        return failed(
            f"After the cutover, statements of the application would fail at foreign keys: {'; '.join(plan.stuck)}.",
            *(line for lines in plan.stuck.values() for line in lines),
        )
    if not plan.aside and not plan.moved:
        return passed("none joins a table that closes with one that stays open")
    parts = []
    if plan.moved:
        parts.append("made anew: " + listed(f"{each}, then to {place}" for each, place in plan.moved))
    if plan.aside:
        parts.append(f"dropped until a rollback: {listed(map(str, plan.aside))}")
    return passed("; ".join(parts))


@dataclass(frozen=True)
class NewEdges:
    """Foreign keys between new tables and others, and the statements that drop them."""

    edges: list[Edge]
    dropped: list[str]


def until_the_cutover(subject: NewEdges) -> Verdict:
    """A new row is behind: it may still refer to one that the application deletes, and keep it from doing so."""
    if not subject.edges:
        return passed("none joins a new table with one that the application writes to")
    return failed(
        f"Statements of the application would fail at foreign keys of new tables: {listed(map(str, subject.edges))}.",
        "Make them in sql/cutover, as NOT VALID, not in sql/new; rows are looked at after the cutover. To drop them:",
        *(f"{each};" for each in subject.dropped),
    )


async def read_old(old: Connection, tables: Tables, places: Mapping[Name, Name], *, together: bool) -> Plan:
    """What becomes of the old tables' keys; ``places`` names the new table that takes an old one's place."""
    oids = await oids_by_name(old, [*places, *places.values()]) if together else {}
    taking = {oids[name]: oids[place] for name, place in places.items() if name in oids and place in oids}
    return await plan_edges(old, await oids_of(old, tables["old"]), taking, together=together)


async def read_new(new: Connection, tables: Tables, schema: str) -> NewEdges:
    """Of the new tables, which are closed until the cutover. Nobody writes to another one of their schema before."""
    edges = await read_edges(new, await oids_of(new, tables["new"]))
    edges = [each for each in edges if {each.child_schema, each.parent_schema} != {schema}]
    return NewEdges(edges, [each.dropped().as_string(new) for each in edges])
