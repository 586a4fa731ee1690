"""What must hold when a run is over: all of it is looked up past the engine, save for the transforms themselves."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

import psycopg

from replicator.demo.application import Application, Connection, found
from replicator.demo.ledger import Ledger
from replicator.migration import Direction
from tests.engine import Engine, differences
from tests.faults.applications import NewParty, NewTickets, OldParty, OldTickets, RenamedNewParty, RenamedOldParty
from tests.faults.ground import caught
from tests.faults.stage import Stage

GONE_SECONDS: Final = 10.0
"""How long the server may take to notice that a daemon is gone."""

LEFT: Final = {
    "sessions": "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY(%(names)s)"
    " AND application_name LIKE 'replicator %%'",
    "slots in use": "SELECT count(*) FROM pg_replication_slots WHERE database = ANY(%(names)s) AND active",
    "advisory locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    " AND database IN (SELECT oid FROM pg_database WHERE datname = ANY(%(names)s))",
    "prepared transactions": "SELECT count(*) FROM pg_prepared_xacts WHERE database = ANY(%(names)s)",
}
ORIGINS: Final = "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE %s"
TEMPORARY: Final = "SELECT count(*) FROM pg_class WHERE relpersistence = 't'"
GUARDS: Final = """
SELECT c.relname, coalesce(t.tgenabled::text, 'D') FROM pg_class AS c
LEFT JOIN pg_trigger AS t ON t.tgrelid = c.oid AND t.tgname = 'replicator_guard'
WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'r'
"""
REFUSED: Final = "RP002"


def judge(stage: Stage, ledger: Ledger) -> list[str]:
    """What is wrong, in words; nobody must be writing, and the daemon must have stopped."""
    new_owns = stage.owner() == "new"
    return [
        *_left_behind(stage),
        *_slots(stage, "reverse" if new_owns else "forward"),
        *_different(stage, "reverse" if new_owns else "forward"),
        *_lost(stage, ledger),
        *_one_owner(stage),
        *_names(stage, new_owns=new_owns),
        *_guards(stage, new_owns=new_owns),
        *_sequence(stage, new_owns=new_owns),
        *_open_questions(stage),
        *(f"the planted {each} was run" for each in caught(stage)),
    ]


def _left_behind(stage: Stage) -> Iterator[str]:
    names = {"names": [stage.old.name, stage.new.name]}
    with psycopg.connect(stage.old.server.admin_dsn, autocommit=True) as admin:
        for what, query in LEFT.items():
            deadline = time.monotonic() + GONE_SECONDS
            while (row := admin.execute(query.encode(), names).fetchone()) != (0,):
                if time.monotonic() > deadline:
                    yield f"{what} are left: {row[0] if row else '?'}"
                    break
                time.sleep(0.05)
    if left := stage.ask(stage.old.dsn, ORIGINS, f"replicator_{stage.settings.slot}%"):
        yield f"replication origins are left: {left}"
    if not stage.crashed:  # after a crash the server itself clears them away, when it comes to it
        for dsn in dict.fromkeys(stage.dsns):
            if left := stage.ask(dsn, TEMPORARY):
                yield f"temporary tables are left: {left}"


def _slots(stage: Stage, direction: Direction) -> Iterator[str]:
    with psycopg.connect(stage.old.server.admin_dsn, autocommit=True) as admin:
        query = "SELECT slot_name FROM pg_replication_slots WHERE database = ANY(%s)"
        slots = {name for (name,) in admin.execute(query, [[stage.old.name, stage.new.name]])}
    if slots != {stage.settings.slot_of(direction)}:
        yield f"the slots are {sorted(slots)} while the {direction} pipeline is at work"
    publications = set()
    for dsn in dict.fromkeys(stage.dsns):
        with psycopg.connect(dsn, autocommit=True) as opened:
            publications |= {name for (name,) in opened.execute("SELECT pubname FROM pg_publication")}
    wanted = {stage.settings.publication_of(direction)} if stage.settings.plugin == "pgoutput" else set()
    if publications != wanted:
        yield f"the publications are {sorted(publications)} while the {direction} pipeline is at work"


def _different(stage: Stage, direction: Direction) -> Iterator[str]:
    found = asyncio.run(differences(Engine(stage.settings, stage.migration, direction)))
    if found:
        yield f"{len(found)} rows differ from what the {direction} transforms give: {found[:5]}"


def _lost(stage: Stage, ledger: Ledger) -> Iterator[str]:
    old, new = (RenamedOldParty, RenamedNewParty) if stage.renamed else (OldParty, NewParty)
    if stage.rolling:
        old, new = OldTickets, NewTickets
    sides: list[tuple[str, Callable[[Connection], Application]]] = [
        (stage.dsns[0], old),
        (stage.dsns[1], lambda connection: new(connection, stage.ids)),
    ]
    for dsn, side in sides:
        with psycopg.connect(dsn, autocommit=True) as opened:
            application = side(opened)
            for lost in ledger.lost(application, found(opened, application))[:5]:
                yield f"lost: {lost}"


def _one_owner(stage: Stage) -> Iterator[str]:
    rows = {stage.ask(dsn, "SELECT owner || epoch FROM _replicator.ownership") for dsn in stage.dsns}
    if len(rows) != 1:
        yield f"two databases disagree about the owner: {sorted(rows)}"
    takers = [
        side
        for dsn, side, tickets in zip(stage.dsns, ("old", "new"), _tickets(stage), strict=True)
        if _takes(dsn, tickets)
    ]
    if takers != [stage.owner()]:
        yield f"these take writes: {takers}, and {stage.owner()} owns the data"


def _tickets(stage: Stage) -> tuple[str, str]:
    """What the old and the new table of tickets are called now."""
    return ("public.tickets_old", "public.tickets") if stage.renamed else ("public.tickets", "party.tickets")


def _takes(dsn: str, table: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as opened:
        try:
            opened.execute(f"UPDATE {table} SET note = '' WHERE false".encode())
        except psycopg.Error as error:
            if error.sqlstate != REFUSED:
                raise
            return False
    return True


def _names(stage: Stage, *, new_owns: bool) -> Iterator[str]:
    """Every table, index and sequence has the name that the owner calls for."""
    if stage.renamed != (stage.renames and new_owns):
        yield f"the tables are {'' if stage.renamed else 'not '}renamed, and {stage.owner()} owns the data"
    active = "public" if stage.renamed or not new_owns else "party"
    for dsn in dict.fromkeys(stage.dsns):
        if (said := stage.ask(dsn, "SELECT replicator.active_schema()")) != active:
            yield f"the application is told to use {said}, not {active}"
    if stage.renames and stage.before:
        wanted = {_moved(each) for each in stage.before} if stage.renamed else stage.before
        if wrong := wanted ^ stage.relations():
            yield f"these names are there and should not be, or the other way: {sorted(wrong)}"


def _moved(relation: tuple[str, str, str]) -> tuple[str, str, str]:
    kind, schema, name = relation
    return kind, "public", f"{name}_old" if schema == "public" else name


def _guards(stage: Stage, *, new_owns: bool) -> Iterator[str]:
    schemas = ("public", "public") if stage.renamed else ("public", "party")
    for dsn, side, schema in zip(stage.dsns, ("old", "new"), schemas, strict=True):
        guarded = new_owns == (side == "old")
        with psycopg.connect(dsn, autocommit=True) as opened:
            states: dict[str, str] = dict(opened.execute(GUARDS, [schema]).fetchall())
        if stage.rolling:  # the other old tables stay as they are
            states = {name: state for name, state in states.items() if name.startswith("tickets")}
        if stage.renamed:
            states = {name: state for name, state in states.items() if name.endswith("_old") == (side == "old")}
        wrong = sorted(name for name, state in states.items() if (state == "A") != guarded)
        if wrong or not states:
            yield f"the guards of the {side} tables are {'off' if guarded else 'on'}: {wrong}"


def _sequence(stage: Stage, *, new_owns: bool) -> Iterator[str]:
    table = _tickets(stage)[new_owns]
    query = f"SELECT nextval(pg_get_serial_sequence('{table}', 'id')) <= (SELECT max(id) FROM {table})"
    if stage.ask(stage.dsns[new_owns], query):
        yield f"the sequence of {table} gives ids that are in use"


def _open_questions(stage: Stage) -> Iterator[str]:
    for dsn in dict.fromkeys(stage.dsns):
        if rows := stage.ask(dsn, "SELECT count(*) FROM _replicator.quarantine"):
            yield f"{rows} rows are in quarantine"
    if stage.phase not in ("follow", "soak"):
        yield f"the phase is {stage.phase}"
