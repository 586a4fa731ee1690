"""Faults in the ground: what the database's owners may change under the daemon, and what strangers may plant there."""

import contextlib
import random
import time
from collections.abc import Iterator
from typing import Any, Final

import psycopg

from tests.faults.stage import Stage

Connection = psycopg.Connection[tuple[Any, ...]]
LASTS: Final = (0.5, 4.0)
"""For how many seconds the ground is wrong: less or more than it takes to notice."""

PLANTED: Final = """
CREATE TABLE IF NOT EXISTS harness.planted (what text);
CREATE OR REPLACE FUNCTION harness.caught(what text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO harness.planted SELECT what WHERE current_setting('application_name') LIKE 'replicator %'
$$;
CREATE OR REPLACE FUNCTION public.unnest(a text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN PERFORM harness.caught('unnest'); RETURN QUERY SELECT pg_catalog.unnest(a); END $$;
CREATE OR REPLACE FUNCTION public.format(a text, b text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN PERFORM harness.caught('format'); RETURN pg_catalog.format(a, b); END $$;
CREATE OR REPLACE FUNCTION public.coalesced(a text, b bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN PERFORM harness.caught('='); RETURN a OPERATOR(pg_catalog.=) b::text; END $$;
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = bigint, FUNCTION = public.coalesced);
"""
"""Better matches than the built-in ones; of the same name and types would be nobody's, for pg_catalog comes first."""
UPROOTED: Final = """
DROP OPERATOR public.= (text, bigint);
DROP FUNCTION public.coalesced(text, bigint), public.unnest(text[]), public.format(text, text);
"""

ENVIRONMENT: Final = {
    "PGTZ": "Asia/Kathmandu", "PGDATESTYLE": "German", "PGOPTIONS": "-c extra_float_digits=-3 -c search_path=harness",
    "TZ": "Asia/Kathmandu",
}  # fmt: skip


def unlog(stage: Stage, chance: random.Random) -> None:
    """What is written meanwhile is in no log. A published table refuses it."""
    with _owner(stage) as (opened, table), contextlib.suppress(psycopg.errors.ObjectNotInPrerequisiteState):
        opened.execute(f"ALTER TABLE {table} SET UNLOGGED".encode())
        _last(chance)
        opened.execute(f"ALTER TABLE {table} SET LOGGED".encode())


def inherit(stage: Stage, chance: random.Random) -> None:
    """A SELECT on the parent returns the child's rows, and the log names the child."""
    with _owner(stage) as (opened, table):
        opened.execute(f"CREATE TABLE harness.child (LIKE {table}) INHERITS ({table})".encode())
        opened.execute(b"INSERT INTO harness.child (id, note) VALUES (-1, 'of the child')")
        _last(chance)
        opened.execute(b"DROP TABLE harness.child")


def hide_rows(stage: Stage, chance: random.Random) -> None:
    """Row security, which hides nothing from a superuser."""
    with _owner(stage) as (opened, table):
        opened.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY".encode())
        opened.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY".encode())
        _last(chance)
        opened.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY".encode())
        opened.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY".encode())


def change_environment(stage: Stage, _chance: random.Random) -> None:
    """The next daemon finds other settings in its environment."""
    stage.environment.update(ENVIRONMENT)
    stage.keeper.send(lambda daemon: daemon.process.kill())


def subscribe(stage: Stage, chance: random.Random) -> None:
    """A subscription, which would write past ordinary triggers; it is never enabled."""
    with psycopg.connect(stage.old.dsn, autocommit=True) as opened:
        name = f"sub_{stage.old.name}"
        opened.execute(
            f"CREATE SUBSCRIPTION {name} CONNECTION 'dbname=none' PUBLICATION none "
            "WITH (connect = false, slot_name = NONE)".encode()
        )
        _last(chance)
        opened.execute(f"DROP SUBSCRIPTION {name}".encode())


def attach(stage: Stage, chance: random.Random) -> None:
    """Partitions come, are written to, and go again with their rows."""
    with psycopg.connect(stage.old.dsn, autocommit=True) as opened:
        begin = 1_000_000 + chance.randrange(1_000) * 1_000
        bounds = f"FOR VALUES FROM ({begin}) TO ({begin + 1000})"
        opened.execute(f"CREATE TABLE public.tickets_far PARTITION OF public.tickets {bounds}".encode())
        with contextlib.suppress(psycopg.DatabaseError):  # guarded after the cutover
            opened.execute(f"INSERT INTO public.tickets VALUES ({begin}, 'far')".encode())
        _last(chance)
        opened.execute(b"ALTER TABLE public.tickets DETACH PARTITION public.tickets_far")
        opened.execute(b"DROP TABLE public.tickets_far")


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
def _owner(stage: Stage) -> Iterator[tuple[Connection, str]]:
    """A connection to the database that owns the data, and the table of tickets there."""
    new = stage.owner() == "new"
    table = "party.tickets" if new and not stage.renamed else "public.tickets"
    with psycopg.connect(stage.dsns[new], autocommit=True) as opened:
        yield opened, table


def _last(chance: random.Random) -> None:
    time.sleep(chance.uniform(*LASTS))
