"""Killed where a busy stream seldom comes by: when the position of an idle one is stored, and the server not told."""

import signal
from pathlib import Path

import pytest

from replicator.runtime.failpoints import VARIABLE, Failpoint
from tests.daemon import Daemon
from tests.engine import Engine, create_old_tables, differences, execute, make_settings, reference
from tests.fix_postgres import Database
from tests.waiting import SECONDS

TIMES = 3

pytestmark = pytest.mark.one_server


async def test_killed_with_the_progress_of_an_idle_stream_stored(database: Database, tmp_path: Path) -> None:
    create_old_tables(database.dsn)
    settings = make_settings(database)
    log = tmp_path / "log"
    for life in range(TIMES):
        execute(database.dsn, [f"INSERT INTO settings (key, value) VALUES ('life {life}', '{life}')"])
        daemon = Daemon(settings, log, environment={VARIABLE: f"{Failpoint.IDLE_COMMITTED}:1:kill"})
        try:
            daemon.start()
            assert daemon.process.wait(SECONDS) == -signal.SIGKILL, daemon.log
        finally:
            daemon.end()
    assert log.read_text().count(Failpoint.IDLE_COMMITTED) == TIMES
    execute(database.dsn, ["UPDATE settings SET value = value || '!'"])
    daemon = Daemon(settings, log)
    try:
        daemon.start()
        daemon.until_phase("follow")
        daemon.drain()
        assert daemon.stop() == 0, daemon.log
    finally:
        daemon.end()
    assert await differences(Engine(settings, reference())) == []
