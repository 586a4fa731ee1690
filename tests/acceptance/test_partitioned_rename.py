"""Tables that are divided anew and keep their names, as an operator and an application meet it: the whole runbook."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.terminal import Terminal
from tests.fix_postgres import Database
from tests.partitioned import SHAPES, create_old, same_rows

pytestmark = [pytest.mark.one_server, pytest.mark.timeout(300)]

MODULE = """
from pathlib import Path
from tests.partitioned import SHAPES, same_rows
migration = same_rows(Path(__file__).parent / "sql", SHAPES)
"""
HELD = "SELECT id, day, note FROM {} WHERE id >= 10000 ORDER BY id"
PARTITIONS = "SELECT count(*) FROM pg_partition_tree('{}') WHERE isleaf"
FAR = "SELECT count(*) FROM events_old WHERE id = 1 AND day = 199"
YOUNG = "CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM (100) TO (200)"


class Writer(threading.Thread):
    """The application: it names no schema and no partition, and every statement must succeed."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.written: dict[int, tuple[int, int, str]] = {}
        self.turns = 0
        self.failed: list[str] = []
        self._dsn = dsn
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as opened:
                while not self._ended.wait(0.02):
                    self._write(opened, 10_000 + self.turns)
                    self.turns += 1
        except psycopg.Error as error:
            self.failed.append(str(error))

    def _write(self, opened: psycopg.Connection[Any], number: int) -> None:
        for table in SHAPES:
            opened.execute(f"INSERT INTO {table} VALUES (%s, %s, 'first')".encode(), (number, number % 100))
            opened.execute(f"UPDATE {table} SET day = 99 - day, note = 'other' WHERE id = %s".encode(), (number,))
            if number % 3 == 0:
                opened.execute(f"DELETE FROM {table} WHERE id = %s".encode(), (number,))
        if number % 3:
            self.written[number] = (number, 99 - number % 100, "other")

    def end(self) -> None:
        self._ended.set()
        self.join()


def is_held(found: Callable[[], Any], held: list[tuple[int, int, str]]) -> bool:
    """Whether a query returns these rows."""
    return bool(found().fetchall() == held)


@pytest.fixture
def terminal(database: Database, tmp_path: Path) -> Iterator[Terminal]:
    with database.connect() as opened:
        opened.execute(create_old(SHAPES))
    same_rows(tmp_path / "sql", SHAPES)
    (tmp_path / "divided.py").write_text(MODULE)
    yield Terminal(
        tmp_path,
        {
            "source_dsn": database.dsn,
            "migration": "divided:migration",
            "plugin": database.plugin,
            "slot": f"s_{database.name}",
            "http_listen": "127.0.0.1:0",
            "ready_for": "0.5",
        },
    )
    with database.connect() as left:
        left.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")


def test_from_the_first_check_to_the_drop(database: Database, terminal: Terminal, tmp_path: Path) -> None:
    writer = Writer(database.dsn)
    cutover = ("cutover", "--wait", "--strategy", "rename")
    with database.connect() as asking:

        def one(query: str) -> Any:
            row = asking.execute(query.encode()).fetchone()
            return row[0] if row else None

        def some_more() -> bool:
            return writer.turns > turns + 5 or bool(writer.failed)

        assert terminal.json("check")["ok"]
        with terminal.daemon() as daemon:
            daemon.until(lambda: "following" in daemon.log)
            writer.start()
            for command in (cutover, ("rollback", "--wait"), cutover):
                done = terminal.run(*command)
                assert done.code == 0, done.said
                renamed = command == cutover
                assert one(PARTITIONS.format("orders")) == (3 if renamed else 0)
                assert one("SELECT to_regclass('events_1_old') IS NOT NULL") is renamed
                if renamed and not one("SELECT to_regclass('events_3') IS NOT NULL"):
                    asking.execute(YOUNG)
                    asking.execute("INSERT INTO events VALUES (1, 199, 'far')")
                    daemon.until(lambda: one(FAR) == 1)
                turns = writer.turns
                daemon.until(some_more)
            smoke = terminal.run("smoke")
            assert smoke.code == 0, smoke.said
            writer.end()
            assert writer.failed == []
            for table in SHAPES:
                held = sorted(writer.written.values())
                assert asking.execute(HELD.format(table).encode()).fetchall() == held
                old = partial(asking.execute, HELD.format(f"{table}_old").encode())
                daemon.until(partial(is_held, old, held))
            assert terminal.run("verify").code == 0
            assert terminal.run("finalize", "--now", "--yes").code == 0
        assert terminal.run("backup", "--to", str(tmp_path), "--no-restore-test").code == 0
        cleaned = terminal.run("cleanup", "--yes", "--to", str(tmp_path))
        assert cleaned.code == 0, cleaned.said
        assert one("SELECT count(*) FROM pg_class WHERE relname ~ '_old'") == 0
        assert one(PARTITIONS.format("events")) == 4  # the young one is among them
