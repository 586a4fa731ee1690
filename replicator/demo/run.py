"""The demo, from an empty server to the last comparison: what ``replicator demo`` runs."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from replicator.core.lsn import parse_lsn
from replicator.demo.connecting import connect
from replicator.demo.embedded import Cluster
from replicator.demo.home import find_home, reference
from replicator.demo.ledger import Ledger
from replicator.demo.presenter import Show, make_show
from replicator.demo.processes import DemoError
from replicator.demo.seed import seed
from replicator.demo.stage import Stage
from replicator.demo.verdict import Figures, judge, seeded
from replicator.errors import ExitCode
from replicator.terminal.failures import print_error
from replicator.terminal.output import emit, messages, output
from replicator.terminal.text import counted, lasting, pause

WARM_UP_SECONDS = 1.0
AROUND_SECONDS = 1.0
SOAK_SECONDS = 5.0
PATIENCE_SECONDS = 60.0
ROWS_A_SECOND = 1_000
"""A demo with more rows has more patience: as if they were copied at this speed."""


def run_demo(*, rows: int, rate: int, json: bool) -> int:
    """Run it; gives the exit code."""
    with _interruptible(), _without_connection_settings(), make_show(quiet=json) as show:
        figures = Demo(rows, rate, show).run()
    for example in figures.examples if not figures.good else ():
        messages().print(example, markup=False, style="red")
    if figures.errors:
        print_error(DemoError(f"Transactions of the writers failed: {dict(figures.errors)}."))
    if json:
        emit(figures.as_json())
    else:
        output().print(figures.last_line, markup=False)
    return ExitCode.DONE if figures.good else ExitCode.FAILED


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make every signal that asks us to end a Ctrl-C, and let none after it disturb the clearing away."""
    heeded = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for each in heeded:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each, handler in heeded.items():
        if handler is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each, handler in heeded.items():
            signal.signal(each, handler)


@contextmanager
def _without_connection_settings() -> Iterator[None]:
    """Hide what the environment says of connections (PGSSLMODE, PGOPTIONS, ...): it is about other servers."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")}
    try:
        yield
    finally:
        os.environ.update(hidden)


class Demo:
    """One run of it."""

    def __init__(self, rows: int, rate: int, show: Show) -> None:
        self._home = find_home()
        self._migration = reference(self._home)
        self._rows = rows
        self._rate = rate
        self._show = show
        self._say = show.say

    def run(self) -> Figures:
        """From beginning to end; whatever happens, nothing is left behind."""
        began = time.monotonic()
        with ExitStack() as stack:
            self._show.doing("starting a private Postgres", alone=True)
            cluster = stack.enter_context(Cluster())
            self._figures = Figures(postgres=cluster.version, requests=self._rows, rate=self._rate)
            self._say(f"a private Postgres {cluster.version} is up")
            patience = PATIENCE_SECONDS + self._rows / ROWS_A_SECOND
            self._stage = Stage(cluster.dsn(), self._home, self._show, patience=patience, stack=stack)
            try:
                self._play()
            except Exception:
                self._stage.tell_logs()
                raise
        self._figures.seconds = round(time.monotonic() - began, 1)
        return self._figures

    def _play(self) -> None:
        ledger = self._seed()
        self._start()
        self._wait_until_ready()
        self._cut_over()
        self._soak()
        ledger.merge(self._stop())
        self._show.doing("comparing all rows both ways, and looking up every write on both sides", alone=True)
        judge(self._stage.dsn, self._migration, ledger, self._figures)
        self._say(
            f"compared both ways: {counted(self._figures.compared_rows, 'row')}; "
            f"looked up on both sides: {counted(self._figures.keys_written, 'key')}"
        )

    # ---- before the cutover

    def _seed(self) -> Ledger:
        with connect(self._stage.dsn) as connection:
            seed(connection, self._home / "sql", self._rows)
            ledger = seeded(connection)
        self._say(f"the seven old tables are there, with {counted(self._rows, 'request')}")
        return ledger

    def _start(self) -> None:
        self._stage.start_writers(self._rate)
        self._stage.go_on(WARM_UP_SECONDS)
        self._say(f"writers write {self._rate} transactions a second, from now to the end")
        daemon = self._stage.start_daemon()
        self._say(f"the daemon runs: process {daemon.popen.pid}, http://{daemon.listen}/status")

    def _wait_until_ready(self) -> None:
        stage, figures = self._stage, self._figures
        stage.wait_for(lambda: stage.document["phase"] not in ("new", "backfill"), "the backfill is done")
        figures.backfill_rows = sum(each["rows"] for each in stage.document["backfill"])
        figures.backfill_seconds = (stage.journal("build") - stage.journal("backfill")).total_seconds()
        rows, seconds = counted(figures.backfill_rows, "row"), lasting(figures.backfill_seconds)
        self._say(f"the backfill is done, {rows} in {seconds}")
        stage.wait_for(lambda: stage.document["phase"] != "build", "indexes and constraints are built")
        self._say("indexes and constraints are built")
        stage.wait_for(lambda: stage.document["ready"], "all gates are open")
        self._say(f"all gates are open: {', '.join(each['name'] for each in stage.document['gates'])}")

    # ---- the cutover, and after it

    def _cut_over(self) -> None:
        stage, figures = self._stage, self._figures
        writers, began = stage.writers, time.monotonic()
        answer = stage.command("cutover", "--wait", "--json")
        stage.go_on(AROUND_SECONDS)
        figures.write_pause_seconds = answer["write_pause_seconds"]
        figures.cutover_attempts = answer["attempts"]
        figures.slowest_write_seconds = writers.slowest(began, time.monotonic()) if writers else 0.0
        self._say(
            f"cut over: writers were held for {pause(figures.write_pause_seconds)}, "
            f"the slowest took {pause(figures.slowest_write_seconds)}"
        )

    def _soak(self) -> None:
        stage, figures, new = self._stage, self._figures, self._migration.new
        writers = stage.writers
        stage.wait_for(lambda: writers is None or new in writers.tally.transactions, "the writers have moved")
        refused = counted(writers.tally.refused if writers else 0, "transaction")
        self._say(f"writers have moved to the schema {new}; {refused} met the guard")
        moved = time.monotonic()
        answer = stage.command("verify", "--json")
        figures.verified_rows = sum(each["rows"] for each in answer["tables"])
        self._say(f"replicator verify, the way back: no divergence in {counted(figures.verified_rows, 'row')}")
        stage.go_on(moved + SOAK_SECONDS - time.monotonic())

    def _stop(self) -> Ledger:
        """Stop the writers, let the old tables come up to the new ones, and stop the daemon."""
        stage, figures, writers = self._stage, self._figures, self._stage.writers
        written = stage.stop_writers()
        tally = writers.tally if writers else None
        if tally is not None:
            figures.take(tally)
        done = ", ".join(f"{count:,} to {schema}" for schema, count in figures.transactions.items())
        self._say(f"writers have stopped: {done}; {sum(figures.errors.values())} failed")
        with connect(stage.dsn) as connection:
            row = connection.execute("SELECT pg_logical_emit_message(true, 'demo', '')::text").fetchone()
        end = parse_lsn(str(row[0])) if row else 0
        stage.wait_for(lambda: stage.applied >= end, "the way back is drained")
        stage.stop_daemon()
        self._say("the old tables have come as far, the daemon has stopped")
        return written
