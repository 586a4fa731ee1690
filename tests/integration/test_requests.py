"""Requests that are cut short: cancelled at a bad moment, or left by a daemon that is stopped or loses a server."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from replicator.daemon.pipelines import Pipelines
from replicator.errors import CutoverError, RetryableError
from replicator.migration import Direction
from replicator.postgres.control.mailbox import request
from replicator.postgres.session.connect import connection
from replicator.runbook.finish import finalize
from replicator.runtime.failpoints import Failpoint, handled
from replicator.switchover.gates import Gate
from replicator.switchover.phases import Phase
from tests.engine import SECONDS, execute, make_settings, reference
from tests.fix_postgres import Database
from tests.reference import seed
from tests.sessions import Running, daemon, silent
from tests.statements import SLOTS, one

pytestmark = pytest.mark.one_server


@pytest.fixture
async def running(database: Database) -> AsyncIterator[Running]:
    seed(database.dsn, 5)
    async with daemon(make_settings(database)) as running:
        await running.ready()
        yield running


async def ask(dsn: str, command: str, arguments: Mapping[str, Any]) -> int:
    async with connection(dsn, "test") as own:
        return await request(own, command, arguments)


def answer(dsn: str, number: int) -> Any:
    return one(dsn, f"SELECT result FROM _replicator.commands WHERE id = {number}")


async def test_what_is_being_taken_back_is_not_cancelled(
    database: Database, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cutover has failed by itself; whoever asked for it loses patience just then."""
    drop, cancelled = Pipelines.drop, "SELECT finished_at FROM _replicator.commands WHERE command = 'cancel'"

    async def no_drain() -> None:
        raise CutoverError("It does not drain.")

    async def drop_when_cancelled(self: Pipelines, direction: Direction) -> None:
        await ask(database.dsn, "cancel", {"id": number})
        await running.until(lambda: one(database.dsn, cancelled))
        await drop(self, direction)

    monkeypatch.setattr(Pipelines, "drop", drop_when_cancelled)
    with handled(Failpoint.CUTOVER_LOCKED, no_drain):
        number = await ask(database.dsn, "cutover", {"wait": True})
        await running.until(lambda: answer(database.dsn, number))
    assert answer(database.dsn, number)["error"] == "It does not drain."
    assert running.session.phase.now == Phase.FOLLOW
    assert one(database.dsn, SLOTS) == 1
    monkeypatch.undo()
    await running.clean()
    assert (await running.cut_over()).epoch == 1


async def test_after_the_commit_nobody_is_told_that_nothing_has_changed(
    database: Database, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon is stopped between the commit and what follows it."""
    committed = asyncio.Event()

    async def linger(*_: object) -> None:
        committed.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("replicator.daemon.switchovers.activate", linger)
    number = await ask(database.dsn, "cutover", {"wait": True})
    await asyncio.wait_for(committed.wait(), SECONDS)
    running.stop.set()
    await running.task
    assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == "new"
    assert "while ownership moved" in answer(database.dsn, number)["error"]
    assert one(database.dsn, f"SELECT exit_code FROM _replicator.commands WHERE id = {number}") == 1


async def test_a_refusal_shows_the_gates_only_where_they_are_the_reason(
    database: Database, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def shut(*_: object, **__: object) -> list[Gate]:
        return [Gate(name="lag", ok=False, detail="too much")]

    monkeypatch.setattr("replicator.daemon.requests.answers.look_at_gates", shut)
    shown = {}
    for command in ("cutover", "rollback"):
        number = await ask(database.dsn, command, {})
        await running.until(lambda number=number: answer(database.dsn, number))
        shown[command] = answer(database.dsn, number)
    assert [each["name"] for each in shown["cutover"]["gates"]] == ["lag"]
    assert shown["rollback"]["error"] == "The old schema owns the data."
    assert "gates" not in shown["rollback"]
    assert running.session.reporter.document["errors"] == [], "nobody is alarmed by what was asked too early"


async def test_a_finalize_that_fails_leaves_the_soak_as_it_was(
    database: Database, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running.cut_over()
    await running.clean()

    async def refuse(*_: object) -> None:
        raise RetryableError("A deadlock.")

    with monkeypatch.context() as patched:
        patched.setattr("replicator.daemon.current_phase.write_phase", refuse)
        number = await ask(database.dsn, "finalize", {"now": True})
        await running.until(lambda: answer(database.dsn, number))
    assert answer(database.dsn, number)["error"] == "A deadlock."
    execute(database.dsn, ["UPDATE party.requests SET status = 'played'"])
    await running.until(lambda: one(database.dsn, "SELECT count(*) FROM requests WHERE status = 'played'") == 5)
    await running.clean()
    await running.roll_back()


async def test_a_session_that_finds_the_migration_over_ends(database: Database, running: Running) -> None:
    """A daemon that lost its connection in the middle of ``finalize`` begins another one."""
    await running.cut_over()
    running.stop.set()
    await running.task
    await finalize(make_settings(database), reference(), silent, now=True)
    async with daemon(make_settings(database)) as again:
        await asyncio.wait_for(again.task, SECONDS)
        assert again.session.phase.now == Phase.FINALIZED
