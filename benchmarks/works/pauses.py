"""How long writers wait in a cutover and in a rollback, against a scripted switch on built-in replication.

The demo's application, daemon and tables. In the end every write that was acknowledged must be on both sides.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import psycopg
from psycopg import sql

from benchmarks.benchmark import Benchmark, Round, few_rounds
from benchmarks.builtin import Subscription
from benchmarks.ground import Connection, Ground, one, until
from benchmarks.lines import Goal, Line, Pair
from replicator.core.lsn import parse_lsn
from replicator.demo.home import find_home, reference
from replicator.demo.presenter import make_show
from replicator.demo.processes import DemoError
from replicator.demo.seed import seed
from replicator.demo.stage import Stage
from replicator.demo.verdict import Figures, judge, seeded
from replicator.switchover.cutover import LOCK_SECONDS

SCRIPT = 'a scripted "lock, wait for lag 0, unlock"'
MEDIAN = Line(work="write pause, median", against=SCRIPT, unit="ms", goal=Goal(most=30, most_ratio=1.5))
TAIL = Line(work="write pause, p99", against=SCRIPT, unit="ms", goal=Goal(most=150), percentile=99)
RATE = 300
"""Transactions a second, of the writers' own mix."""
ROWS = 2_000
READY = ("--wait", "--timeout", "300", "--json")
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname"
MARK = "INSERT INTO public.mark VALUES (%s)"
SEEN = "SELECT count(*) FROM public.mark WHERE number = %s"
"""A row of the script's own: what a subscriber reports lags by a fifth of a second, for it flushes no sooner."""
BETWEEN_SECONDS = 0.2


def switched(ground: Ground, pairs: int) -> list[float]:
    """Milliseconds of each cutover and each rollback. Raises DemoError when a write was lost or a row differs."""
    home = find_home()
    migration = reference(home)
    with ground.database() as database, make_show(quiet=True) as show, ExitStack() as stack:
        dsn = ground.cluster.dsn(database)
        stage = Stage(dsn, home, show, patience=300, stack=stack)
        with psycopg.connect(dsn, autocommit=True) as connection:
            seed(connection, home / "sql", ROWS)
            ledger = seeded(connection)
        stage.start_writers(RATE)
        stage.start_daemon()
        ground.doing("replicator gets ready to cut over")
        stage.wait_for(lambda: stage.document["ready"], "all gates are open")
        pauses = []
        for pair in range(1, pairs + 1):
            for name in ("cutover", "rollback"):
                ground.doing(f"replicator: {name} {pair} of {pairs}")
                pauses.append(stage.command(name, *READY)["write_pause_seconds"] * 1e3)
        figures = Figures(postgres=ground.cluster.version, requests=ROWS, rate=RATE)
        writers = stage.writers
        ledger.merge(stage.stop_writers())
        if writers is not None:
            figures.take(writers.tally)
        with psycopg.connect(dsn, autocommit=True) as connection:
            end = parse_lsn(one(connection, "SELECT pg_logical_emit_message(true, 'end', '')::text"))
        stage.wait_for(lambda: stage.applied >= end, "all is applied")
        stage.stop_daemon()
        judge(dsn, migration, ledger, figures)
        if not figures.as_json()["ok"]:
            raise DemoError("Something was lost, differs, or has failed.")
        return pauses


def scripted(ground: Ground, locks: int) -> list[float]:
    """Milliseconds that writers wait while a script locks all tables, and the subscriber comes up to that point."""
    home = find_home()
    with ground.database() as source, make_show(quiet=True) as show, ExitStack() as stack:
        with ground.connect(source) as connection:
            seed(connection, home / "sql", ROWS)
            tables = [str(name) for (name,) in connection.execute(TABLES.encode()).fetchall()]
            connection.execute("CREATE TABLE public.mark (number integer PRIMARY KEY)")
        target = stack.enter_context(ground.database(source))
        Subscription(ground, source, target).start([*tables, "mark"])
        stage = Stage(ground.cluster.dsn(source), home, show, patience=300, stack=stack)
        stage.start_writers(RATE)
        with ground.connect(source) as holder, ground.connect(source) as own, ground.connect(target) as subscriber:
            pauses = []
            for number in range(1, locks + 1):
                ground.doing(f"the script: lock {number} of {locks}")
                stage.go_on(BETWEEN_SECONDS)
                pauses.append(_locked(holder, tables, partial(_come_up, own, subscriber, number)))
        stage.stop_writers()
        return pauses


def _locked(holder: Connection, tables: list[str], come_up: Callable[[], None]) -> float:
    """One pause. An attempt whose locks do not come in time does not count, as replicator's does not."""
    names = sql.SQL(", ").join(sql.Identifier("public", name) for name in tables)
    while True:
        began = time.monotonic()
        # Below deadlock_timeout: tables are locked one by one, and the server would end a writer in a deadlock.
        with suppress(psycopg.errors.LockNotAvailable), holder.transaction():
            holder.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'".encode())
            holder.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(names))
            come_up()
            return (time.monotonic() - began) * 1e3
        time.sleep(BETWEEN_SECONDS)


def _come_up(own: Connection, subscriber: Connection, number: int) -> None:
    own.execute(MARK.encode(), (number,))
    until(lambda: one(subscriber, SEEN, number), "the subscriber has come up", pause=0.001)


@contextmanager
def _opened(ground: Ground) -> Iterator[Round]:
    pairs = ground.scale.pairs

    def once(number: int) -> Mapping[str, Pair]:
        ours, peer = ground.alternate(number, lambda: switched(ground, pairs), lambda: scripted(ground, 2 * pairs))
        return {line.work: Pair(ours=ours, peer=peer) for line in (MEDIAN, TAIL)}

    yield once


PAUSES = Benchmark(name="write pause", lines=(MEDIAN, TAIL), opened=_opened, rounds=few_rounds)
