"""The daemon is killed again and again while the application writes: nothing is lost, nothing is done twice."""

import asyncio
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from tests.daemon import Daemon
from tests.engine import Engine, create_old_tables, differences, execute, make_settings, reference
from tests.fix_postgres import Database
from tests.waiting import SECONDS
from transforms.requests import new_status, request_id

ROWS: Final = 6_000
CHUNK_ROWS: Final = 100
CHUNKS: Final = ROWS // CHUNK_ROWS
KILLS: Final = 2
"""In each phase."""
STATUSES: Final = ("pending", "approved", "rejected", "queued", "failed", "played")
REQUEST: Final = (
    "INSERT INTO requests (id, track_uri, track_name, artist_name, duration_ms, requester_ip_hash, status) "
)
PAUSE: Final = 0.02
"""Between a writer's transactions: they must not outrun a daemon that shares the machine with them."""
DONE: Final = "SELECT count(*) FROM _replicator.chunks WHERE done_at IS NOT NULL"
APPLIED: Final = "SELECT applied_lsn - '0/0' FROM _replicator.progress"

pytestmark = [pytest.mark.two_servers, pytest.mark.timeout(600)]


class Writer(threading.Thread):
    """Writes until it is told to stop, and keeps what was acknowledged: each request's status, None if it is gone."""

    def __init__(self, dsn: str, name: str, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self._dsn = dsn
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._number = 0
        self.ledger: dict[str, str | None] = {}
        self.transactions = 0

    def run(self) -> None:
        with psycopg.connect(self._dsn) as connection:
            while not self._stopping.wait(PAUSE):
                meant = self._write(connection)
                connection.commit()
                self.ledger.update(meant)
                self.transactions += 1

    def stop(self) -> None:
        self._stopping.set()
        self.join(SECONDS)
        assert not self.is_alive()

    def _write(self, connection: "psycopg.Connection[tuple[Any, ...]]") -> dict[str, str | None]:
        self._number += 1
        new, status = f"{self.name}-{self._number}", self._random.choice(STATUSES)
        meant: dict[str, str | None] = {new: status}
        connection.execute(REQUEST + "VALUES (%s, 'u', 'n', 'a', 1, 'h', %s)", (new, status))
        own = [key for key, held in self.ledger.items() if held is not None]
        for key in self._random.sample(own, min(2, len(own))):
            if self._random.random() < 0.3:
                connection.execute("DELETE FROM requests WHERE id = %s", (key,))
                meant[key] = None
            else:
                connection.execute("UPDATE requests SET status = %s WHERE id = %s", (status, key))
                meant[key] = status
        self._touch_the_old(connection, status)
        return meant

    def _touch_the_old(self, connection: "psycopg.Connection[tuple[Any, ...]]", status: str) -> None:
        """Rows that chunks will copy, or have copied; each writer has its own, so that none waits for another."""
        key = old_key(self._random.randrange(ROWS // 3), self.name)
        match self._random.randrange(4):
            case 0:
                connection.execute("DELETE FROM requests WHERE id = %s", (key,))
            case 1:
                connection.execute("UPDATE requests SET id = %s WHERE id = %s", (f"{key}-{self._number}", key))
            case _:
                connection.execute("UPDATE requests SET status = %s WHERE id = %s", (status, key))
        connection.execute(
            "INSERT INTO settings VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (self.name, str(self._number)),
        )


def old_key(number: int, kind: str) -> str:
    """An id of a row that was there before: ``a`` and ``b`` are the writers', ``q`` are quiet, in turn."""
    return f"{number:05}{kind}"


@pytest.fixture
def daemon(database: Database, tmp_path: Path) -> Iterator[Daemon]:
    create_old_tables(database.dsn)
    execute(
        database.dsn,
        [
            REQUEST + "SELECT to_char(i, 'FM00000') || kind, 'u', 'n', 'a', i, 'h', 'pending' "
            f"FROM generate_series(0, {ROWS // 3 - 1}) i, unnest(ARRAY['a', 'b', 'q']) kind",
            "INSERT INTO admins (id, username, password_hash) VALUES ('a1', 'ann', 'x')",
            "INSERT INTO event_settings (id, event_title) VALUES (1, 'party')",
            "INSERT INTO spotify_auth (id, access_token) VALUES (1, 'secret')",
        ],
    )
    made = Daemon(make_settings(database, chunk_rows=CHUNK_ROWS, batch_rows=200), tmp_path / "daemon.log")
    yield made
    made.end()


@pytest.fixture
def writers(database: Database, chance: random.Random) -> Iterator[list[Writer]]:
    made = [Writer(database.dsn, name, chance.randrange(1 << 32)) for name in ("a", "b")]
    yield made
    for writer in made:
        writer.stop()


@pytest.fixture
def chance() -> random.Random:
    """The test's luck, which can be had again."""
    seed = int(os.environ.get("REPLICATOR_TEST_SEED") or random.randrange(1 << 32))
    print(f"REPLICATOR_TEST_SEED={seed}")  # noqa: T201  # shown when the test fails
    return random.Random(seed)


def test_killed_anywhere_it_goes_on(
    database: Database, daemon: Daemon, writers: list[Writer], chance: random.Random
) -> None:
    for writer in writers:
        writer.start()

    daemon.start()
    daemon.until(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{daemon.settings.slot}'")
    daemon.kill()

    copied: dict[tuple[str, int], tuple[Any, ...]] = {}
    removed: set[str] = set()
    for _ in range(KILLS):
        daemon.start()
        daemon.until_more(DONE, len(copied) + chance.randrange(CHUNKS // (KILLS + 1)))
        kill_at_any_moment(daemon, chance)
        assert daemon.ask("SELECT phase FROM _replicator.state") == "backfill", "too late: nothing is left to resume"
        now = chunks(database.dsn)
        assert len(now) > len(copied)
        assert copied.items() <= now.items(), "a chunk was copied twice"
        copied = now
        removed |= remove_from_target(database.dsn)

    daemon.start()
    daemon.until_phase("build", "follow")
    assert copied.items() <= chunks(database.dsn).items(), "a chunk was copied twice"
    assert removed, "no chunk was done"
    assert not removed & ids_on_target(database.dsn), "a chunk that was done before the kill was copied again"
    execute(database.dsn, [f"UPDATE requests SET album_name = 'seen' WHERE id = '{key}'" for key in removed])

    for _ in range(KILLS):
        before = daemon.ask(APPLIED)
        daemon.until_more(APPLIED, before + chance.randrange(100_000))
        kill_at_any_moment(daemon, chance)
        assert daemon.ask(APPLIED) > before
        daemon.start()

    daemon.until_phase("follow")
    for writer in writers:
        writer.stop()
    daemon.drain()
    assert daemon.stop() == 0
    assert sum(writer.transactions for writer in writers) > 100
    assert asyncio.run(differences(Engine(daemon.settings, reference()))) == []
    assert daemon.ask("SELECT count(*) FROM _replicator.quarantine") == 0
    held = statuses_on_target(database.dsn)
    for writer in writers:
        for key, status in writer.ledger.items():
            assert held.get(request_id(key)) == (None if status is None else new_status(status)), key


def kill_at_any_moment(daemon: Daemon, chance: random.Random) -> None:
    time.sleep(chance.random() * 0.1)
    daemon.kill()


def chunks(dsn: str) -> dict[tuple[str, int], tuple[Any, ...]]:
    """The chunks that are done, and when each was read and written."""
    with psycopg.connect(dsn) as target:
        found = target.execute(
            "SELECT source, ordinal, read_lsn::text, row_count, done_at FROM _replicator.chunks "
            "WHERE done_at IS NOT NULL"
        ).fetchall()
    return {(source, ordinal): tuple(rest) for source, ordinal, *rest in found}


def remove_from_target(dsn: str) -> set[str]:
    """Remove a quiet row of each chunk that is done from the target: only another copy could bring it back."""
    with psycopg.connect(dsn) as target:
        found = target.execute(
            "SELECT min(r.id) FROM _replicator.chunks c JOIN requests r ON r.id LIKE '%%q' "
            "AND (c.lower_key IS NULL OR r.id > c.lower_key ->> 0) "
            "AND (c.upper_key IS NULL OR r.id <= c.upper_key ->> 0) "
            "WHERE c.source = 'requests' AND c.done_at IS NOT NULL GROUP BY c.ordinal"
        ).fetchall()
        keys = {str(key) for (key,) in found}
        target.execute("SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets")
        target.execute("DELETE FROM party.requests WHERE id = ANY (%s::uuid[])", ([request_id(key) for key in keys],))
    return keys


def statuses_on_target(dsn: str) -> dict[str, str]:
    """The status of each new request."""
    with psycopg.connect(dsn) as target:
        return dict(target.execute("SELECT id::text, status FROM party.requests").fetchall())


def ids_on_target(dsn: str) -> set[str]:
    """The old ids of the quiet rows on the target."""
    with psycopg.connect(dsn) as target:
        found = target.execute("SELECT legacy ->> 'id' FROM party.requests WHERE legacy ->> 'id' LIKE '%%q'").fetchall()
    return {str(key) for (key,) in found}


def test_only_one_runs_and_sigterm_ends_it(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    daemon.until(DONE)
    second = Daemon(daemon.settings, tmp_path / "second.log")
    second.start()
    assert second.process.wait(SECONDS) == 1
    assert "Another daemon is running this migration (pid " in second.log
    assert "Stop that one first." in second.log
    assert "Traceback" not in second.log
    daemon.until_phase("follow")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log
    daemon.start()
    daemon.drain()
    assert daemon.stop() == 0
    assert asyncio.run(differences(Engine(daemon.settings, reference()))) == []
