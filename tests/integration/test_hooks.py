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

from replicator.core.epochs import OwnershipEpoch
from replicator.daemon import hooks
from replicator.daemon.daemon import run
from replicator.daemon.hooks import Hooks, Moment
from replicator.errors import NotReadyError, ReplicatorError
from replicator.observe.metrics import Metrics
from replicator.postgres.control.control import install
from replicator.postgres.control.mailbox import request
from replicator.postgres.session.connect import connection
from replicator.switchover.phases import Phase
from tests.engine import SECONDS, make_settings, reference
from tests.fix_postgres import Database
from tests.listener import listening
from tests.reference import seed
from tests.sessions import daemon
from tests.statements import one
from tests.waiting import until

pytestmark = pytest.mark.one_server

MOMENT = Moment(before=Phase.CUTOVER, after=Phase.SOAK, owner="new", epoch=OwnershipEpoch(3))


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
                for row in opened.execute("SELECT details FROM _replicator.journal WHERE event = 'hook' ORDER BY id")
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
            await until((tmp_path / "begun").exists)
    (warning,) = [each for each in said if each["log_level"] == "warning"]
    assert warning["events"] == ["cutover", "soak"]


async def test_a_journal_that_cannot_be_written_stops_nothing(database: Database) -> None:
    async with opened(database, "exit 0") as made:
        with psycopg.connect(database.dsn) as superuser:
            superuser.execute("DROP SCHEMA replicator, _replicator CASCADE")
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


# --- as the daemon calls them -----------------------------------------------------------------------------------------


def told(folder: Path) -> list[str]:
    return (folder / "told").read_text().split() if (folder / "told").exists() else []


async def test_a_session_tells_of_each_phase_and_asks_before_it_moves(database: Database, tmp_path: Path) -> None:
    command = (
        f'echo "$REPLICATOR_HOOK_EVENT" >> {tmp_path}/told; '
        f"case $REPLICATOR_HOOK_EVENT in before_*) test ! -e {tmp_path}/freeze || {{ echo frozen >&2; exit 1; }}; esac"
    )
    seed(database.dsn)
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(listening())
        made = await stack.enter_async_context(opened(database, command, listener.url))
        running = await stack.enter_async_context(daemon(make_settings(database), hooks=made.hooks))
        await running.ready()
        await made.hooks.finish()
        begun = ["backfill", "build", "follow"]
        assert told(tmp_path) == begun

        await running.cut_over(dry_run=True)
        await made.hooks.finish()
        assert told(tmp_path) == begun, "what is only rehearsed is not told"

        for move, owner, before in ((running.cut_over, "old", "follow"), (running.roll_back, "new", "soak")):
            (tmp_path / "freeze").touch()
            with pytest.raises(NotReadyError, match="frozen"):
                await move()
            assert running.session.phase.now == before
            assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == owner
            (tmp_path / "freeze").unlink()
            await running.clean()
            await move()
        await made.hooks.finish()
        cutover = ["cutover", "before_cutover", "follow", "cutover", "before_cutover", "soak"]
        rollback = ["rollback", "before_rollback", "soak", "rollback", "before_rollback", "follow"]
        assert sorted(told(tmp_path)) == sorted(begun + cutover + rollback)
        after = [each for each in told(tmp_path) if not each.startswith("before")]
        assert after == begun + [each for each in cutover + rollback if not each.startswith("before")]
    sent = sorted(listener.got, key=lambda each: str(each["at"]))
    facts = [tuple(each[name] for name in ("event", "phase_before", "phase_after", "owner", "epoch")) for each in sent]
    assert facts[:3] == [
        ("backfill", "new", "backfill", "old", 0),
        ("build", "backfill", "build", "old", 0),
        ("follow", "build", "follow", "old", 0),
    ]
    assert facts[-3:] == [
        ("rollback", "soak", "rollback", "new", 1),
        ("before_rollback", "rollback", "follow", "new", 1),
        ("follow", "rollback", "follow", "old", 2),
    ]
    assert ("soak", "cutover", "soak", "new", 1) in facts


async def test_the_end_is_told_before_the_daemon_ends(database: Database, tmp_path: Path) -> None:
    seed(database.dsn)
    command = (
        f'test "$REPLICATOR_HOOK_EVENT" != finalized || sleep 0.5; echo "$REPLICATOR_HOOK_EVENT" >> {tmp_path}/told'
    )
    async with opened(database, command) as made, daemon(make_settings(database), hooks=made.hooks) as running:
        await running.ready()
        await running.cut_over()
        async with connection(database.dsn, "test") as asking:
            await request(asking, "finalize", {"now": True})
        await asyncio.wait_for(running.task, SECONDS)
    assert told(tmp_path)[-1] == "finalized"


async def test_the_daemon_goes_on_and_shows_the_failure(database: Database) -> None:
    seed(database.dsn)
    stop = asyncio.Event()
    running = asyncio.create_task(
        run(make_settings(database, hook_command=SecretStr("echo broken >&2; exit 1")), reference(), stop=stop)
    )
    errors = "SELECT document -> 'errors' FROM _replicator.status"
    try:
        await until(
            lambda: (
                one_or_none(database.dsn, "SELECT phase FROM _replicator.state") == "follow"
                and len(one_or_none(database.dsn, errors) or []) >= 3
            ),
            alive=lambda: running.done() and running.result(),
        )
    finally:
        stop.set()
        await running
    shown = one(database.dsn, errors)
    assert {(each["kind"], each["text"]) for each in shown} == {
        ("hook", f"The hook {event} (command) exited with 1: broken.") for event in ("backfill", "build", "follow")
    }


def one_or_none(dsn: str, query: str) -> Any:
    """None, too, while the control tables are not there."""
    with contextlib.suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return one(dsn, query)
    return None
