"""Nobody answers: a standby that confirms no commit, a daemon that is stopped. What is said is true, and all ends."""

import asyncio
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest

from replicator.cli import client
from replicator.demo.embedded import free_port
from replicator.errors import ReplicatorError
from replicator.postgres.control.mailbox import Command
from tests.acceptance.terminal import Daemon, Terminal
from tests.engine import SECONDS, execute
from tests.fix_postgres import Database, MakeCluster, Server
from tests.mailbox import daemon, database, never
from tests.same_names import create_old, same_names
from tests.waiting import until

pytestmark = [pytest.mark.one_server, pytest.mark.timeout(400)]
__all__ = ["database"]

MIGRATION = """
from pathlib import Path
from tests.same_names import same_names
migration = same_names(Path(__file__).parent / "sql")
"""
LOCAL = "?options=-c%20synchronous_commit%3Dlocal"


def terminal_of(dsn: str, plugin: str, folder: Path) -> Terminal:
    """A user's terminal, with a daemon to come on a port of its own."""
    create_old(dsn)
    same_names(folder / "sql")
    (folder / "moves.py").write_text(MIGRATION)
    settings = {
        "source_dsn": dsn,
        "migration": "moves:migration",
        "plugin": plugin,
        "slot": f"n_{dsn.rsplit('/', 1)[-1][-20:]}",
        "http_listen": f"127.0.0.1:{free_port()}",
        "ready_for": "0.5",
        "max_write_pause": "5",  # half of it is how far behind the daemon may be
    }
    return Terminal(folder, settings)


def asked(terminal: Terminal, path: str) -> tuple[int, str]:
    """What the daemon's page says."""
    try:
        with urlopen(f"http://{terminal.settings['http_listen']}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def ready(terminal: Terminal, daemon: Daemon) -> None:
    daemon.until(lambda: terminal.json("status")["ready"])


@pytest.fixture
def standby(make_cluster: MakeCluster, server: Server, tmp_path: Path) -> SimpleNamespace:
    """A server of the test's own, and a terminal; ``wanted`` says for whom commits wait."""
    cluster = make_cluster()

    def wanted(name: str) -> None:
        with psycopg.connect(cluster.dsn() + LOCAL, autocommit=True) as admin:
            admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'".encode())
            admin.execute("SELECT pg_reload_conf()")

    terminal = terminal_of(cluster.dsn(), server.plugin, tmp_path)
    return SimpleNamespace(terminal=terminal, wanted=wanted, dsn=cluster.dsn())


def test_commits_that_no_standby_confirms(standby: SimpleNamespace) -> None:
    terminal: Terminal = standby.terminal
    with terminal.daemon() as daemon:
        ready(terminal, daemon)
        assert asked(terminal, "/healthz") == (200, "ok\n")
        standby.wanted("nobody")
        execute(standby.dsn + LOCAL, ["UPDATE notes SET body = 'unconfirmed' WHERE code = 'c1'"])
        daemon.until(lambda: asked(terminal, "/healthz")[0] == 503)
        assert "synchronous_standby_names" in asked(terminal, "/healthz")[1]
        daemon.until(lambda: asked(terminal, "/readyz")[0] == 503)  # once the lag is past the limit
        daemon.until(lambda: not terminal.json("status")["ready"])
        status = terminal.json("status")
        assert "synchronous_standby_names" in str(status["waiting"])
        assert "forward apply, for " in terminal.run("status").output
        assert "in_the_way" in daemon.log
        late = terminal.run("cutover", "--wait", "--timeout", "2")
        assert late.code == 3, late.said
        assert "synchronous_standby_names" in late.output, "the gate says it"
        assert daemon.stop() == 0
    with terminal.daemon() as daemon:  # the one before it has left a commit that still waits
        daemon.until(lambda: "in_the_way" in daemon.log)
        standby.wanted("")
        ready(terminal, daemon)
        assert asked(terminal, "/healthz") == (200, "ok\n")
        done = terminal.run("cutover", "--wait", "--timeout", "150")
        assert done.code == 0, done.said


def test_a_stopped_daemon_is_not_ready(database: Database, tmp_path: Path) -> None:
    terminal = terminal_of(database.dsn, database.plugin, tmp_path)
    with terminal.daemon() as daemon:
        ready(terminal, daemon)
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            filling = (
                "UPDATE people SET bio = bio || (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 2000) i)"
            )
            execute(database.dsn, [filling])
            daemon.until(lambda: not terminal.json("status")["ready"])
            assert terminal.json("status")["lag_bytes"] > 100_000
            daemon.until(lambda: not any(each["ok"] for each in terminal.json("status")["gates"]))
            status = terminal.json("status")
            assert not status["ready"]
            assert status["lag_bytes"] > 100_000
            assert status["lag_seconds"] > 3
            assert status["slot_retained_bytes"] > 100_000
            assert status["gates"]
            assert not any(each["ok"] for each in status["gates"])
            shown = terminal.run("status").output
            assert "what holds now is not known" in shown.splitlines()[0]
            assert "ready for the cutover" not in shown
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        ready(terminal, daemon)
        assert daemon.stop() == 0


def test_a_slot_that_nobody_reads_is_not_ready(database: Database, tmp_path: Path) -> None:
    """The report may be of the moment before."""
    terminal = terminal_of(database.dsn, database.plugin, tmp_path)
    with terminal.daemon() as daemon:
        ready(terminal, daemon)
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            with psycopg.connect(database.dsn, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
                daemon.until(lambda: terminal.json("status")["slot_active"] is False)
                admin.execute("UPDATE _replicator.status SET updated_at = clock_timestamp()")
                status = terminal.json("status")
                assert (status["ready"], status["slot_active"]) == (False, False)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        ready(terminal, daemon)


async def test_a_request_ends_on_its_own_clock(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.5)
    notes: list[str] = []

    def show(_: Command) -> None:
        """Show nothing."""

    async def ask() -> Any:
        return await client.ask(database.dsn, "cutover", {"wait": True}, show, notes.append, 0.3)

    async with daemon(database, never) as made, asyncio.timeout(SECONDS):
        with pytest.raises(ReplicatorError, match="Neither the daemon nor the server has answered"):
            await ask()
        await until(lambda: len(made.named("cancel")) == 1)
    assert notes == ["Cancelling the cutover; Ctrl-C again does not wait for the answer."]
