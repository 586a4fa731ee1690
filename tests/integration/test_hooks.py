"""Hooks: asked before, told afterwards, in order; in the journal, the metrics and the daemon's errors."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from replicator import hooks
from replicator.errors import NotReadyError, ReplicatorError
from replicator.hooks import Hooks, Moment
from replicator.observe.metrics import Metrics
from replicator.phases import Phase
from replicator.postgres.connect import connection
from replicator.postgres.control import install
from tests.engine import SECONDS, make_settings, reference
from tests.fix_postgres import Database
from tests.listener import listening

MOMENT = Moment(before=Phase.CUTOVER, after=Phase.SOAK, owner="new", epoch=3)


class Opened:
    """Hooks with what they tell others."""

    def __init__(self, database: Database, command: str = "", url: str = "") -> None:
        self.database = database
        self.metrics = Metrics()
        self.failures: list[ReplicatorError] = []
        settings = make_settings(database, hook_command=SecretStr(command), hook_url=SecretStr(url) if url else None)
        self.hooks = Hooks(settings, reference(), self.metrics, self.failures.append)

    def journal(self) -> list[Any]:
        with psycopg.connect(self.database.dsn) as opened:
            return [
                row[0]
                for row in opened.execute("SELECT details FROM replicator.journal WHERE event = 'hook' ORDER BY id")
            ]

    def counted(self, event: str, outcome: str) -> float:
        return (
            self.metrics.registry.get_sample_value("replicator_hooks_total", {"event": event, "outcome": outcome}) or 0
        )


@contextlib.asynccontextmanager
async def opened(database: Database, command: str = "", url: str = "") -> AsyncIterator[Opened]:
    async with connection(database.dsn, "test") as control:
        await install(control, reference())
    made = Opened(database, command, url)
    async with made.hooks, asyncio.timeout(SECONDS):
        yield made


async def test_they_are_called_in_order_and_nobody_waits(database: Database, tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = f'until test -e {go}; do sleep 0.01; done; echo "$REPLICATOR_HOOK_EVENT" >> {tmp_path}/told'
    async with opened(database, command) as made:
        for event in ("cutover", "soak", "rollback"):
            made.hooks.after(event, MOMENT)  # gives at once, or the command would never end
        go.touch()
        await made.hooks.finish()
        assert (tmp_path / "told").read_text().split() == ["cutover", "soak", "rollback"]
        assert [(each["event"], each["way"], each["outcome"]) for each in made.journal()] == [
            (event, "command", "ok") for event in ("cutover", "soak", "rollback")
        ]
        assert all(each["seconds"] >= 0 for each in made.journal())
        assert made.counted("soak", "ok") == 1
        assert made.failures == []


async def test_the_document(database: Database) -> None:
    with listening() as listener:
        async with opened(database, url=listener.url) as made:
            made.hooks.after("soak", MOMENT)
            await made.hooks.finish()
    (document,) = listener.got
    assert isinstance(document.pop("at"), str)
    assert isinstance(document.pop("host"), str)
    assert document == {
        "event": "soak",
        "migration": "party",
        "phase_before": "cutover",
        "phase_after": "soak",
        "owner": "new",
        "active_schema": "party",
        "epoch": 3,
        "text": "Migration party: soak (cutover to soak); the schema in use is party.",
    }


async def test_both_are_called(database: Database, tmp_path: Path) -> None:
    with listening() as listener:
        async with opened(database, f"cat > {tmp_path}/got", listener.url) as made:
            await made.hooks.before("before_cutover", MOMENT)
            assert len(listener.got) == 1
            assert (tmp_path / "got").read_text()
            assert [each["way"] for each in made.journal()] == ["command", "url"]


async def test_one_that_fails_before_stops_it(database: Database) -> None:
    with listening() as listener:
        async with opened(database, "echo no backup >&2; exit 1", listener.url) as made:
            with pytest.raises(NotReadyError, match=r"exited with 1: no backup\. Nothing has moved") as stopped:
                await made.hooks.before("before_cutover", MOMENT)
            assert "REPLICATOR_HOOK_COMMAND" in stopped.value.remedy
            assert listener.got == []
            assert made.counted("before_cutover", "failed") == 1
            assert [each["outcome"] for each in made.journal()] == ["failed"]


async def test_a_url_that_fails_before_stops_it_and_is_asked_once(database: Database) -> None:
    with listening(503, said="freeze until Monday") as listener:
        async with opened(database, url=listener.url) as made:
            with pytest.raises(NotReadyError, match="answered with 503: freeze until Monday") as stopped:
                await made.hooks.before("before_rollback", MOMENT)
            assert "REPLICATOR_HOOK_URL" in stopped.value.remedy
            assert len(listener.got) == 1


async def test_one_that_hangs_before_stops_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "SECONDS", 0.05)
    async with opened(database, "sleep 600") as made:
        with pytest.raises(NotReadyError, match=r"did not end within 0\.05 s"):
            await made.hooks.before("before_cutover", MOMENT)
        assert made.counted("before_cutover", "timeout") == 1
        assert [each["outcome"] for each in made.journal()] == ["timeout"]


async def test_a_url_that_hangs(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "SECONDS", 0.2)
    with listening() as listener:
        listener.silent = True
        async with opened(database, url=listener.url) as made:
            with pytest.raises(NotReadyError, match=r"did not end within 0\.2 s"):
                await made.hooks.before("before_cutover", MOMENT)


async def test_one_that_fails_afterwards_is_told_and_stops_nothing(database: Database, tmp_path: Path) -> None:
    command = f'echo "$REPLICATOR_HOOK_EVENT" >> {tmp_path}/told; test "$REPLICATOR_HOOK_EVENT" != soak'
    async with opened(database, command) as made:
        made.hooks.after("soak", MOMENT)
        made.hooks.after("rollback", MOMENT)
        await made.hooks.finish()
        assert (tmp_path / "told").read_text().split() == ["soak", "rollback"], "a command is not run again"
        assert [str(each) for each in made.failures] == ["The hook soak (command) exited with 1."]
        assert made.metrics.registry.get_sample_value("replicator_errors_total", {"kind": "hook"}) == 1
        assert [each["outcome"] for each in made.journal()] == ["failed", "ok"]


async def test_a_url_that_is_busy_is_called_again(database: Database) -> None:
    with listening(503, 429, 200) as listener:
        async with opened(database, url=listener.url) as made:
            made.hooks.after("soak", MOMENT)
            await made.hooks.finish()
            assert len(listener.got) == 3
            assert made.failures == []
            assert made.counted("soak", "ok") == 1
            assert made.counted("soak", "failed") == 0


async def test_a_url_that_stays_busy_is_given_up(database: Database) -> None:
    with listening(503) as listener:
        async with opened(database, url=listener.url) as made:
            made.hooks.after("soak", MOMENT)
            await made.hooks.finish()
            assert len(listener.got) == hooks.TRIES
            assert len(made.failures) == 1


async def test_a_stopping_daemon_says_what_it_has_not_told(database: Database, tmp_path: Path) -> None:
    with capture_logs() as said:
        async with opened(database, f"touch {tmp_path}/begun; sleep 600") as made:
            made.hooks.after("cutover", MOMENT)
            made.hooks.after("soak", MOMENT)
            while not (tmp_path / "begun").exists():
                await asyncio.sleep(0.01)
    (warning,) = [each for each in said if each["log_level"] == "warning"]
    assert warning["events"] == ["cutover", "soak"]


async def test_a_journal_that_cannot_be_written_stops_nothing(database: Database) -> None:
    async with opened(database, "exit 0") as made:
        with psycopg.connect(database.dsn) as superuser:
            superuser.execute("DROP SCHEMA replicator CASCADE")
        with capture_logs() as said:
            await made.hooks.before("before_cutover", MOMENT)
        assert any("journal" in each["event"] for each in said)


async def test_without_a_setting_nothing_is_called(database: Database) -> None:
    async with opened(database) as made:
        await made.hooks.before("before_cutover", MOMENT)
        made.hooks.after("soak", MOMENT)
        await made.hooks.finish()
        assert made.journal() == []


async def test_nothing_secret_is_logged(database: Database) -> None:
    with listening(400) as listener, capture_logs() as said:
        async with opened(database, "exit 1 # secret", listener.url) as made:
            made.hooks.after("soak", MOMENT)
            await made.hooks.finish()
    assert [each["problem"] for each in said if each["event"] == "hook"] == [
        "The hook soak (command) exited with 1.",
        "The hook soak (url) was answered with 400.",
    ]
    assert len(listener.got) == 1, "what was refused is not sent again"
    assert "secret" not in str(said)
    assert "secret" not in str(made.journal()) + str(made.failures) + repr(made.hooks._settings)
