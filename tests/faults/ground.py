"""Faults in the ground: what the database's owners may change under the daemon, and what strangers may plant there.

Each may be done again: when a server crashes in the middle of one, nobody knows what of it was committed.
"""

import contextlib
import random
import time
from collections.abc import Iterator
from typing import Any, Final

import psycopg

from tests.faults.roles import dsn_of
from tests.faults.stage import Stage
from tests.faults.writers import GUARDED

Connection = psycopg.Connection[tuple[Any, ...]]
LASTS: Final = (0.5, 4.0)
"""For how many seconds the ground is wrong: less or more than it takes to notice."""

PLANTED: Final = """
CREATE TABLE IF NOT EXISTS harness.planted (what text);
CREATE OR REPLACE FUNCTION harness.caught(what text) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$
    INSERT INTO harness.planted SELECT what WHERE current_setting('application_name') LIKE 'replicator %'
$$;
CREATE OR REPLACE FUNCTION public.unnest(a text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN PERFORM harness.caught('unnest'); RETURN QUERY SELECT pg_catalog.unnest(a); END $$;
CREATE OR REPLACE FUNCTION public.format(a text, b text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN PERFORM harness.caught('format'); RETURN pg_catalog.format(a, b); END $$;
CREATE OR REPLACE FUNCTION public.coalesced(a text, b bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN PERFORM harness.caught('='); RETURN a OPERATOR(pg_catalog.=) b::text; END $$;
DROP OPERATOR IF EXISTS public.= (text, bigint);
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = bigint, FUNCTION = public.coalesced);
"""
"""Better matches than the built-in ones; of the same name and types would be nobody's, for pg_catalog comes first."""
UPROOTED: Final = """
DROP OPERATOR IF EXISTS public.= (text, bigint);
DROP FUNCTION IF EXISTS public.coalesced(text, bigint), public.unnest(text[]), public.format(text, text);
"""

ENVIRONMENT: Final = {
    "PGTZ": "Asia/Kathmandu", "PGDATESTYLE": "German", "PGOPTIONS": "-c extra_float_digits=-3 -c search_path=harness",
    "TZ": "Asia/Kathmandu",
}  # fmt: skip


def unlog(stage: Stage, chance: random.Random) -> None:
    """What is written meanwhile is in no log. A published table refuses it."""
    with _owner(stage) as (opened, table), contextlib.suppress(psycopg.errors.ObjectNotInPrerequisiteState):
        _alter(opened, f"ALTER TABLE {table} SET UNLOGGED")
        _last(chance)
        _alter(opened, f"ALTER TABLE {table} SET LOGGED")


def inherit(stage: Stage, chance: random.Random) -> None:
    """A SELECT on the parent returns the child's rows, and the log names the child."""
    with _owner(stage) as (opened, table):
        _alter(opened, f"CREATE TABLE IF NOT EXISTS harness.child (LIKE {table}) INHERITS ({table})")
        opened.execute(b"INSERT INTO harness.child (id, note) VALUES (-1, 'of the child')")
        _last(chance)
        _alter(opened, "DROP TABLE IF EXISTS harness.child")


def hide_rows(stage: Stage, chance: random.Random) -> None:
    """Row security, which shows the application all, and the daemon nothing."""
    with _owner(stage, chance) as (opened, table):
        _alter(opened, f"DROP POLICY IF EXISTS ours ON {table}")
        _alter(opened, f"CREATE POLICY ours ON {table} USING (current_user = '{stage.roles.app}')")
        _alter(opened, f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        _last(chance)
        _alter(opened, f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
        _alter(opened, f"DROP POLICY IF EXISTS ours ON {table}")


def change_environment(stage: Stage, _chance: random.Random) -> None:
    """The next daemon finds other settings in its environment."""
    stage.environment.update(ENVIRONMENT)
    stage.keeper.send(lambda daemon: daemon.process.kill())


def subscribe(stage: Stage, chance: random.Random) -> None:
    """A subscription into a table, which would write past ordinary triggers; it is never enabled."""
    publisher, name = f"{stage.old.name}_publisher", f"sub_{stage.old.name}"
    with _owner(stage, chance) as (opened, table), contextlib.ExitStack() as stack:
        publishing = stack.enter_context(_another_database(stage, publisher))
        schema = table.split(".")[0]
        publishing.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}".encode())
        publishing.execute(f"CREATE TABLE IF NOT EXISTS {table} (id bigint PRIMARY KEY, note text)".encode())
        publishing.execute(f"CREATE PUBLICATION theirs FOR TABLE {table}".encode())
        _unsubscribe(opened, name)
        _alter(
            opened,
            f"CREATE SUBSCRIPTION {name} CONNECTION '{stage.old.server.dsn(publisher)}' PUBLICATION theirs "
            "WITH (create_slot = false, enabled = false, slot_name = 'none')",
        )
        _last(chance)
        _unsubscribe(opened, name)


def _unsubscribe(opened: Connection, name: str) -> None:
    if opened.execute("SELECT FROM pg_subscription WHERE subname = %s", (name,)).fetchone() is not None:
        opened.execute(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)".encode())
        _alter(opened, f"DROP SUBSCRIPTION IF EXISTS {name}")


def attach(stage: Stage, chance: random.Random) -> None:
    """Partitions come, are written to, and go again with their rows."""
    begin = 10**12 + chance.randrange(1_000) * 1_000  # beyond what either sequence will ever give
    bounds = f"FOR VALUES FROM ({begin}) TO ({begin + 1000})"
    with psycopg.connect(dsn_of(stage.roles.app, stage.old.dsn), autocommit=True) as opened:
        _remove_partition(opened)
        _alter(opened, f"CREATE TABLE public.tickets_far PARTITION OF public.tickets {bounds}")
        with contextlib.suppress(psycopg.DatabaseError):  # guarded after the cutover
            opened.execute(f"INSERT INTO public.tickets VALUES ({begin}, 'far')".encode())
        _last(chance)
        _remove_partition(opened)
    stage.until("one side to take the deletion", lambda: _deleted(stage, begin))


def _deleted(stage: Stage, key: int) -> bool:
    """The row may have been carried over, and a cutover have come in between: then it is the new owner's.

    For a moment after that commit, another database takes no writes yet: then neither side does.
    """
    taken = False
    for dsn, table in zip(stage.dsns, ("public.tickets", "party.tickets"), strict=True):
        with psycopg.connect(dsn_of(stage.roles.app, dsn), autocommit=True) as opened:
            gone = (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege, psycopg.errors.RaiseException)
            try:
                opened.execute(f"DELETE FROM {table} WHERE id = {key}".encode())
            except psycopg.DatabaseError as error:
                if error.sqlstate != GUARDED and not isinstance(error, gone):
                    raise
            else:
                taken = True
    return taken


def _remove_partition(opened: Connection) -> None:
    """A server that crashed may have committed any of these statements without a reply."""
    attached = "SELECT FROM pg_inherits WHERE inhrelid = to_regclass('public.tickets_far')"
    if opened.execute(attached.encode()).fetchone() is not None:
        _alter(opened, "ALTER TABLE public.tickets DETACH PARTITION public.tickets_far")
    _alter(opened, "DROP TABLE IF EXISTS public.tickets_far")


def plant(stage: Stage, chance: random.Random) -> None:
    """Functions and an operator under the names of built-in ones."""
    for dsn in dict.fromkeys(stage.dsns):
        with psycopg.connect(dsn, autocommit=True) as opened:
            opened.execute(PLANTED.encode())
    _last(chance)
    for dsn in dict.fromkeys(stage.dsns):
        with psycopg.connect(dsn, autocommit=True) as opened:
            opened.execute(UPROOTED.encode())


def caught(stage: Stage) -> list[str]:
    """Which planted functions somebody has run."""
    found = []
    for dsn in dict.fromkeys(stage.dsns):
        with psycopg.connect(dsn, autocommit=True) as opened:
            if opened.execute("SELECT to_regclass('harness.planted') IS NOT NULL").fetchone() == (True,):
                found += [what for (what,) in opened.execute("SELECT DISTINCT what FROM harness.planted")]
    return found


@contextlib.contextmanager
def _owner(stage: Stage, chance: random.Random | None = None) -> Iterator[tuple[Connection, str]]:
    """A superuser's connection to a database whose tables take writes, and the table of tickets there.

    :param chance: either will do while both schemas take writes; without it, it is the old one.
    """
    new = chance.random() < 0.5 if chance and stage.phase == "rolling" else stage.owner() == "new"
    table = "party.tickets" if new and not stage.renamed else "public.tickets"
    with psycopg.connect(stage.dsns[new], autocommit=True) as opened:
        yield opened, table


@contextlib.contextmanager
def _another_database(stage: Stage, name: str) -> Iterator[Connection]:
    """A database of nobody's, on the same server."""
    with psycopg.connect(stage.old.server.admin_dsn, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
        try:
            with psycopg.connect(stage.old.server.dsn(name), autocommit=True) as opened:
                yield opened
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _alter(opened: Connection, statement: str) -> None:
    """Change the ground; once more where the daemon and we have waited for each other."""
    while True:
        with contextlib.suppress(psycopg.errors.DeadlockDetected):
            opened.execute(statement.encode())
            return


def _last(chance: random.Random) -> None:
    time.sleep(chance.uniform(*LASTS))
