"""What many partitions cost, step by step: `python -m benchmarks.by_hand.partitions --partitions 1200`.

A private server as it comes, but for `wal_level`; commands and daemon as processes; one writer all the time. Locks are
counted twenty times a second.
"""

import argparse
import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from replicator.demo.embedded import Cluster
from tests.acceptance import terminal
from tests.acceptance.terminal import Terminal
from tests.partitioned import same_rows

MODULE = """
from pathlib import Path
from benchmarks.by_hand.partitions import days
from tests.partitioned import same_rows
migration = same_rows(Path(__file__).parent / "sql", {"orders": ("", days(NEW))})
"""
SETTINGS = {"max_connections": "100", "max_prepared_transactions": "0", "max_wal_senders": "10"}
LOCKS = """
    SELECT count(DISTINCT (locktype, database, relation, page, tuple, virtualxid, transactionid::text, objid))
    FROM pg_locks WHERE NOT fastpath
"""


def days(partitions: int) -> str:
    """A table divided by day, with an index beside its key; plain, if there are to be no partitions."""
    index = ";\nCREATE INDEX IF NOT EXISTS {i}_note ON {t} (note)"
    if not partitions:
        return index
    parts = (
        f";\nCREATE TABLE IF NOT EXISTS {{t}}_{day} PARTITION OF {{t}} FOR VALUES FROM ({day}) TO ({day + 1})"
        for day in range(partitions)
    )
    return f" PARTITION BY RANGE (day){''.join(parts)}{index}"


class Writer(threading.Thread):
    """The application: it writes now here, now there, where it is told to; what fails in a move is tried again."""

    def __init__(self, dsn: str, partitions: int) -> None:
        super().__init__(daemon=True)
        self.table = "public.orders"
        self.longest = 0.0
        self._dsn, self._partitions = dsn, partitions
        self._ended = threading.Event()

    def run(self) -> None:
        number = 0
        with psycopg.connect(self._dsn, autocommit=True) as opened:
            while not self._ended.wait(0.02):
                number += 1
                began = time.monotonic()
                with contextlib.suppress(psycopg.Error):
                    values = (10_000_000 + number, number % self._partitions)
                    opened.execute(f"INSERT INTO {self.table} VALUES (%s, %s, 'w')".encode(), values)
                self.longest = max(self.longest, time.monotonic() - began)

    def end(self) -> None:
        self._ended.set()
        self.join()


class Locks(threading.Thread):
    """The most that are in the server's shared table at once."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._dsn = dsn
        self._ended = threading.Event()

    def run(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as opened:
            while not self._ended.wait(0.05):
                (found,) = opened.execute(LOCKS).fetchone() or (0,)
                self.most = max(self.most, found)

    def end(self) -> None:
        self._ended.set()
        self.join()


class Runbook:
    """All of it; ``figures`` has for each step the seconds, and the locks at once."""

    def __init__(self, cluster: Cluster, folder: Path, given: argparse.Namespace) -> None:
        self.dsn = cluster.dsn()
        self.figures: dict[str, Any] = {}
        self._given = given
        self._folder = folder
        self._terminal = Terminal(
            folder,
            {
                "source_dsn": self.dsn,
                "migration": "many:migration",
                "plugin": given.plugin,
                "http_listen": "127.0.0.1:0",
                "ready_for": "0.5",
                "max_write_pause": str(given.pause),
            },
        )

    def run(self) -> None:
        given = self._given
        with self._step("old tables made"):
            self._make_old()
        (self._folder / "many.py").write_text(MODULE.replace("NEW", str(given.new)))
        same_rows(self._folder / "sql", {"orders": ("", days(given.new))})
        self._command("check")
        self._command("schema")
        writer = Writer(self.dsn, given.partitions)
        with self._terminal.daemon() as daemon:
            writer.start()
            try:
                with self._step("backfill and build"):
                    daemon.until(lambda: '"phase": "follow"' in daemon.log)
                self._command("verify")
                for _ in range(2):
                    self._move("cutover", writer, "shop.orders" if given.strategy == "schema" else "public.orders")
                    if "cutover again" not in self.figures:
                        self._move("rollback", writer, "public.orders")
                self._command("verify", "verify after")
            finally:
                writer.end()
                self.figures["daemon"] = [line for line in daemon.log.splitlines() if "warn" in line or "error" in line]
        self._command("finalize", "finalize", "--now", "--yes")

    def _make_old(self) -> None:
        given = self._given
        create = (
            f"CREATE TABLE orders (id integer, day integer, note text, PRIMARY KEY (id, day)){days(given.partitions)}"
        )
        with psycopg.connect(self.dsn, autocommit=True) as opened:
            for statement in create.format(t="orders", i="orders").split(";\n"):
                opened.execute(statement.encode())
            opened.execute(
                "INSERT INTO orders SELECT i, i %% %s, 'n' FROM generate_series(1, %s) AS i",
                (given.partitions, given.rows),
            )
            opened.execute("ANALYZE orders")

    def _move(self, name: str, writer: Writer, table: str) -> None:
        again = f"{name} again" if name in self.figures else name
        writer.longest = 0.0
        options = ("--strategy", self._given.strategy) if name == "cutover" else ()
        answer = self._command(name, again, "--wait", "--timeout", "600", *options)
        writer.table = table
        self.figures[again] |= {
            "pause": round(answer["write_pause_seconds"], 2),
            "attempts": answer["attempts"],
            "longest write": round(writer.longest, 2),
        }

    def _command(self, name: str, step: str | None = None, *options: str) -> Any:
        with self._step(step or name):
            done = self._terminal.run(name, *options, "--json")
        if done.code:
            raise SystemExit(f"{name} failed:\n{done.said}")
        return json.loads(done.output) if done.output.startswith("{") else None

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        locks, began = Locks(self.dsn), time.monotonic()
        locks.start()
        try:
            yield
        finally:
            locks.end()
            self.figures[name] = {"seconds": round(time.monotonic() - began, 1), "locks": locks.most}
            print(f"{name}: {self.figures[name]}", flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=1_200, help="of the old table")
    parser.add_argument("--new", type=int, default=1_200, help="partitions of the new table; 0: it is a plain one")
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--strategy", choices=("schema", "rename"), default="schema")
    parser.add_argument("--plugin", choices=("wal2json", "pgoutput"), default="pgoutput")
    parser.add_argument("--pause", type=float, default=5.0, help="REPLICATOR_MAX_WRITE_PAUSE")
    parser.add_argument("--locks", type=int, default=64, help="max_locks_per_transaction")
    given = parser.parse_args()
    terminal.SECONDS = 900
    with tempfile.TemporaryDirectory() as folder:
        settings = SETTINGS | {"max_locks_per_transaction": str(given.locks)}
        with Cluster(settings=settings) as cluster:
            runbook = Runbook(cluster, Path(folder), given)
            try:
                runbook.run()
            finally:
                print(json.dumps(runbook.figures, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
