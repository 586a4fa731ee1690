"""One transaction of a million rows: the daemon stays small, and no reader sees half of it (invariant I5)."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import psycopg
import pytest

from tests.daemon import Daemon
from tests.engine import create_old_tables, execute, make_settings
from tests.fix_postgres import Database

SECONDS: Final = 1_000.0
MEGABYTE: Final = 1 << 20
LIMIT: Final = 300 * MEGABYTE
MILLION_ON: Final = "pg18-pgoutput"
"""The other servers get a twentieth: what could make a difference there is the plugin."""

pytestmark = [pytest.mark.two_servers, pytest.mark.timeout(1_200)]


@contextmanager
def memory(daemon: Daemon) -> Iterator[list[int]]:
    """The daemon's resident memory with that of its children, looked at all the time; the largest is the last."""
    peaks, stopping, process = [0], threading.Event(), psutil.Process(daemon.process.pid)

    def look() -> None:
        while not stopping.wait(0.05):
            with_children = [process, *process.children(recursive=True)]
            peaks.append(max(peaks[-1], sum(each.memory_info().rss for each in with_children)))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield peaks
    finally:
        stopping.set()
        looking.join()


@contextmanager
def reader(dsn: str, query: str) -> Iterator[set[int]]:
    """What a reader of the new schema sees of it."""
    seen: set[int] = set()
    stopping = threading.Event()

    def look() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stopping.wait(0.5):  # counting a million rows keeps a core busy
                row = connection.execute(query.encode()).fetchone()
                seen.add(row[0] if row else -1)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        stopping.set()
        looking.join()


@pytest.fixture
def daemon(database: Database, tmp_path: Path) -> Iterator[Daemon]:
    create_old_tables(database.dsn)
    execute(database.dsn, ["INSERT INTO event_settings (id, event_title) VALUES (1, 'party')"])
    made = Daemon(make_settings(database, chunk_rows=5_000, batch_rows=5_000), tmp_path / "daemon.log")
    made.start()
    made.until_phase("follow")
    yield made
    made.end()


@dataclass(frozen=True)
class Change:
    """A statement, and what a reader of the new schema sees before it and after it."""

    name: str
    statement: str
    query: str
    before: int
    after: int


COUNT: Final = "SELECT count(*) FROM party.requests"


def changes(rows: int, some: int) -> list[Change]:
    """Rows are inserted; some of them are updated, and then deleted."""
    insert = (
        "INSERT INTO requests (id, track_uri, track_name, artist_name, album_name, album_image_url, duration_ms, "
        "requester_ip_hash, requester_nickname) SELECT 'r' || i, 'spotify:track:' || md5(i::text), "
        "'A song of middling length', 'An artist', 'An album', 'https://i.scdn.co/image/' || md5(i::text), i, "
        f"md5('x' || i), 'guest' || i % 100 FROM generate_series(1, {rows}) i"
    )
    update = f"UPDATE requests SET status = 'played', approved_at = now() WHERE duration_ms <= {some}"
    return [
        Change("inserted", insert, COUNT, 0, rows),
        Change("updated", update, f"{COUNT} WHERE status = 'played'", 0, some),
        Change("deleted", f"DELETE FROM requests WHERE duration_ms <= {some}", COUNT, rows, rows - some),
    ]


def test_a_million_rows_in_one_transaction(database: Database, daemon: Daemon) -> None:
    rows = int(os.environ.get("REPLICATOR_TEST_ROWS") or (1_000_000 if database.server.id == MILLION_ON else 50_000))
    for change in changes(rows, rows // 10):
        with memory(daemon) as peaks, reader(database.dsn, change.query) as seen:
            execute(database.dsn, [change.statement])
            began = time.monotonic()
            daemon.drain(SECONDS)
            speed = abs(change.after - change.before) / (time.monotonic() - began)
        print(f"{change.name}: {speed:,.0f} rows/s, {peaks[-1] / MEGABYTE:.0f} MB")  # noqa: T201
        assert daemon.ask(change.query) == change.after
        assert seen <= {change.before, change.after}, "a reader has seen half of a transaction"
        assert peaks[-1] < LIMIT
    assert daemon.ask("SELECT count(*) FROM _replicator.quarantine") == 0
    assert daemon.stop() == 0
