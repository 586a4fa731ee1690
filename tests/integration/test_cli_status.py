"""The commands that talk to a daemon through the control tables, with a daemon that says what each test needs."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import pytest

from replicator.observe.status import blank
from replicator.postgres.control import control, mailbox
from replicator.postgres.control.mailbox import Command
from replicator.postgres.session.connect import Connection, connection
from tests.daemon import ROOT
from tests.fix_postgres import Database
from tests.mailbox import Daemon, Take, daemon, database, never
from tests.programs import MIGRATION, Program, environment, heeded_signals, replicator
from tests.waiting import until

pytestmark = pytest.mark.two_servers
__all__ = ["database", "heeded_signals"]

GATES = [
    {"name": "lag", "ok": True, "detail": "below 1.0 MB for 5 s"},
    {"name": "verify", "ok": False, "detail": "no clean pass yet"},
]
NOT_READY = {"error": "A gate is not open: verify.", "remedy": "Wait for it.", "gates": GATES}
CLEAN = {
    "tables": [{"table": "requests", "rows": 1200, "missing": 0, "extra": 0, "different": 0, "examples": []}],
    "repaired": 0,
    "clean": True,
}
DIVERGENT = {
    "tables": [
        {
            "table": "requests",
            "rows": 1200,
            "missing": 1,
            "extra": 0,
            "different": 2,
            "examples": [{"kind": "missing", "key": ["r-17"]}],
        }
    ],
    "repaired": 0,
    "clean": False,
    "advice": "3 rows diverge; see `replicator verify --repair`.",
}
CUT_OVER = {"write_pause_seconds": 0.0123, "attempts": 2, "epoch": 1, "dry_run": False}
CANCELLED = {"error": "The cutover was cancelled.", "remedy": ""}


# --- the program ------------------------------------------------------------------------------------------------------


def said(program: Program, line: str) -> bool:
    return f"{line}\n" in program.err


async def another_look(opened: Connection, command: str) -> None:
    """Wait until the program has read the control tables anew: one look is three queries at most."""
    for _ in range(4):
        before = await _last_query(opened, command)

        async def moved(before: Any = before) -> bool:
            return bool(await _last_query(opened, command) != before)

        await until(moved)


async def _last_query(opened: Connection, command: str) -> Any:
    cursor = await opened.execute(
        "SELECT query_start FROM pg_stat_activity WHERE application_name = %s", (f"replicator {command}",)
    )
    return await cursor.fetchone()


# --- the daemon -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def installed(database: Database) -> AsyncIterator[Connection]:
    async with connection(database.dsn, "test") as opened:
        await control.install(opened, MIGRATION)
        yield opened


async def wait_for_cancel(made: Daemon, command: Command) -> None:
    await mailbox.report_progress(made.connection, command.id, {"step": "waiting for the gates", "gates": GATES})
    await made.cancelled(command)
    await made.answer(command, 1, CANCELLED)


def answers(exit_code: int, result: Mapping[str, Any]) -> Take:
    async def take(made: Daemon, command: Command) -> None:
        await made.answer(command, exit_code, result)

    return take


# --- status -----------------------------------------------------------------------------------------------------------


async def test_before_anything_is_installed_the_status_says_what_to_do(database: Database) -> None:
    code, shown, errors = await replicator(database, "status")
    assert (code, shown, errors) == (0, "not started; `replicator check`, then `replicator run`\n", "")
    code, shown, _ = await replicator(database, "status", "--json")
    assert (code, json.loads(shown)) == (
        0,
        {"daemon_alive": False, "age_seconds": None, "phase": None, "ready": False},
    )


async def test_the_status_without_a_daemon_says_so_and_how_old_it_is(database: Database, installed: Connection) -> None:
    await control.write_status(installed, {**blank("party"), "phase": "follow"})
    await installed.execute("UPDATE _replicator.status SET updated_at = clock_timestamp() - interval '2 hours'")
    code, shown, _ = await replicator(database, "status")
    assert code == 0
    assert shown.startswith("party  follow")
    assert "no daemon runs; this report is 2 h old" in shown
    report = json.loads((await replicator(database, "status", "--json"))[1])
    assert (report["daemon_alive"], report["phase"]) == (False, "follow")
    assert report["age_seconds"] > 7000


async def test_a_migration_that_is_over_is_shown_so_whatever_the_last_report_was(
    database: Database, installed: Connection
) -> None:
    """The daemon may end before it has reported this, and `finalize` needs none."""
    soak = {**blank("party"), "phase": "soak", "owner": "new", "direction": "reverse", "gates": GATES}
    await control.write_status(installed, soak)
    await control.write_phase(installed, control.FINALIZED)
    code, shown, _ = await replicator(database, "status")
    assert code == 0
    assert shown.splitlines()[0] == "party  finalized: over; the old tables may go"
    assert "the new schema owns it; nothing follows any more" in shown
    assert not re.search("no daemon runs|Gates|Lag", shown)
    report = json.loads((await replicator(database, "status", "--json"))[1])
    assert (report["phase"], report["owner"], report["ready"], report["gates"]) == ("finalized", "new", False, [])
    code, _, errors = await replicator(database, "rollback")
    assert code == 3
    assert errors.startswith("error: The migration is over, and no daemon runs any more.\n")


async def test_the_status_of_a_running_daemon(database: Database) -> None:
    async with daemon(database, never) as made:
        await control.write_status(made.connection, {**blank("party"), "phase": "follow", "gates": GATES})
        code, shown, errors = await replicator(database, "status")
        report = json.loads((await replicator(database, "status", "--json"))[1])
    assert (code, errors) == (0, "")
    assert "no daemon runs" not in shown
    assert re.search(r"^no  verify  no clean pass yet *$", shown, re.MULTILINE)
    assert (report["daemon_alive"], report["gates"]) == (True, GATES)


async def test_the_document_of_another_version_is_shown(database: Database, installed: Connection) -> None:
    await control.write_status(installed, {"migration": "party", "phase": "newer", "something": "else"})
    code, shown, errors = await replicator(database, "status")
    assert (code, errors) == (0, "")
    assert shown.startswith("party  newer")


async def test_watching_without_a_terminal_prints_a_line_for_each_change(
    database: Database, installed: Connection
) -> None:
    program = await Program.start(database, "status", "--watch")
    await until(lambda: program.out.count("\n") == 1)
    await control.write_status(installed, {**blank("party"), "phase": "backfill"})
    await until(lambda: program.out.count("\n") == 2)
    await control.write_status(installed, {**blank("party"), "phase": "follow"})
    await until(lambda: program.out.count("\n") == 3)
    program.send(signal.SIGINT)
    code, shown, errors = await program.end()
    assert (code, errors) == (0, "")
    first, second, third = shown.splitlines()
    assert first == "not started; `replicator check`, then `replicator run`"
    assert second.startswith("backfill, lag not measured, ")
    assert third.startswith("follow, ")


async def test_watching_says_nothing_while_nothing_changes(database: Database) -> None:
    async with daemon(database, never) as made:
        await control.write_status(made.connection, blank("party"))
        program = await Program.start(database, "status", "--watch", "--json")
        await until(lambda: program.out.count("\n") == 1)
        await another_look(made.connection, "status")
        program.send(signal.SIGTERM)
        code, shown, _ = await program.end()
    assert code == 0
    assert [json.loads(line)["phase"] for line in shown.splitlines()] == ["new"]


async def test_watching_survives_a_lost_connection(database: Database, installed: Connection) -> None:
    program = await Program.start(database, "status", "--watch")
    await until(lambda: program.out.count("\n") == 1)
    await installed.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'replicator status'"
    )
    await control.write_status(installed, {**blank("party"), "phase": "follow"})
    await until(lambda: program.out.count("\n") == 2)
    program.send(signal.SIGINT)
    code, shown, _ = await program.end()
    assert code == 0
    assert shown.splitlines()[1].startswith("follow, ")


async def test_watching_on_a_terminal_redraws_the_page_until_ctrl_c(database: Database, installed: Connection) -> None:
    await control.write_status(installed, {**blank("party"), "phase": "backfill"})
    leader, follower = pty.openpty()
    shown = bytearray()
    asyncio.get_running_loop().add_reader(leader, lambda: shown.extend(os.read(leader, 65536)))
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "replicator", "status", "--watch"),
            env={**environment(database), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
            cwd=ROOT,
            stdin=follower,
            stdout=follower,
            stderr=follower,
        )
        await until(lambda: b"rows are copied" in shown)
        await control.write_status(installed, {**blank("party"), "phase": "follow"})
        await until(lambda: b"kept in step" in shown)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        await until(lambda: b"\x1b[?25h" in shown)  # the cursor is shown again
    finally:
        asyncio.get_running_loop().remove_reader(leader)
        os.close(leader)
        os.close(follower)
    assert b"\x1b[?25l" in shown
    assert b"Traceback" not in shown


async def test_watching_a_server_that_does_not_answer_fails(database: Database) -> None:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "replicator", "status", "--watch"),
        env={**environment(database), "REPLICATOR_TARGET_DSN": "postgresql://127.0.0.1:1/none"},
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await program.communicate()
    assert program.returncode == 1
    assert errors.startswith(b"error: No connection to 127.0.0.1:1/none. The connection failed: ")


# --- verify -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["verify", "cutover"])
async def test_without_a_daemon_a_request_is_not_made(database: Database, installed: Connection, command: str) -> None:
    code, shown, errors = await replicator(database, command)
    assert (code, shown) == (3, "")
    assert errors == "error: No daemon runs.\n  what to do: Start it with `replicator run`.\n"
    assert await mailbox.pending_commands(installed) == []
    code, shown, _ = await replicator(database, command, "--json")
    assert (code, json.loads(shown)["kind"]) == (3, "not_ready")


async def test_a_clean_verification(database: Database) -> None:
    async with daemon(database, answers(0, CLEAN)) as made:
        code, shown, _ = await replicator(database, "verify")
    assert code == 0
    assert "No divergence in 1,200 rows." in shown
    assert [each.arguments for each in made.named("verify")] == [{"repair": False}]


async def test_a_divergent_verification(database: Database) -> None:
    async with daemon(database, answers(1, DIVERGENT)) as made:
        code, shown, _ = await replicator(database, "verify", "--repair")
        json_code, json_shown, json_errors = await replicator(database, "verify", "--json")
    assert code == 1
    assert re.search(r"^requests  1,200 +1 +0 +2 *$", shown, re.MULTILINE)
    assert "missing: requests r-17" in shown
    assert "Divergence: 3 of 1,200 rows. 3 rows diverge; see `replicator verify --repair`." in shown
    assert [each.arguments for each in made.named("verify")] == [{"repair": True}, {"repair": False}]
    assert (json_code, json.loads(json_shown), json_errors) == (1, DIVERGENT, "")


async def test_repaired_rows_are_told(database: Database) -> None:
    async with daemon(database, answers(0, {**CLEAN, "repaired": 3})) as made:
        code, shown, _ = await replicator(database, "verify", "--repair", "--allow-emptying")
    assert code == 0
    assert [each.arguments for each in made.named("verify")] == [{"repair": True, "allow_emptying": True}]
    assert "3 rows repaired." in shown


async def test_progress_is_told_step_by_step(database: Database) -> None:
    told = asyncio.Event()

    async def take(made: Daemon, command: Command) -> None:
        for what in ("party.requests", "party.events"):
            await mailbox.report_progress(made.connection, command.id, {"done": 1, "total": 3, "what": what})
            await until(partial(said, program, what))
            await another_look(made.connection, "verify")
        told.set()
        await made.answer(command, 0, CLEAN)

    async with daemon(database, take):
        program = await Program.start(database, "verify")
        code, shown, errors = await program.end()
    assert (code, told.is_set()) == (0, True)
    assert errors.endswith("party.requests\nparty.events\n")
    assert errors.count("party.requests\n") == 1
    assert "party.requests" not in shown


async def test_a_verification_that_fails_says_why(database: Database) -> None:
    async with daemon(database, answers(1, {"error": "The source went away.", "remedy": "Start it."})):
        code, shown, errors = await replicator(database, "verify")
    assert (code, shown) == (1, "")
    assert errors.endswith("error: The source went away.\n  what to do: Start it.\n")


@pytest.mark.parametrize("command", ["verify", "cutover"])
async def test_a_daemon_that_goes_away_is_told_and_the_request_withdrawn(
    database: Database, installed: Connection, command: str
) -> None:
    async with daemon(database, never) as made:
        program = await Program.start(database, command)
        await until(lambda: made.named(command))
        await made.die()
        code, _, errors = await program.end()
    assert code == 1
    assert f"error: The daemon went away while it worked on the {command}" in errors
    cancels = [each for each in await mailbox.pending_commands(installed) if each.command == "cancel"]
    assert [each.arguments for each in cancels] == [{"id": made.named(command)[0].id}]


async def test_an_answer_of_a_daemon_that_then_stops_counts(database: Database) -> None:
    async def take(made: Daemon, command: Command) -> None:
        await made.answer(command, 0, CUT_OVER)
        await made.die()

    async with daemon(database, take):
        code, _, _ = await replicator(database, "cutover")
    assert code == 0


async def test_a_connection_that_is_lost_is_told(database: Database, installed: Connection) -> None:
    async with daemon(database, never) as made:
        program = await Program.start(database, "verify")
        await until(lambda: made.named("verify"))
        await installed.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'replicator verify'"
        )
        code, _, errors = await program.end()
    assert code == 1
    assert "error: The connection was lost while the daemon worked on the verify" in errors


# --- cutover ----------------------------------------------------------------------------------------------------------


async def test_a_cutover(database: Database) -> None:
    async with daemon(database, answers(0, CUT_OVER)) as made:
        code, shown, _ = await replicator(database, "cutover")
        json_code, json_shown, json_errors = await replicator(database, "cutover", "--wait", "--timeout", "9", "--json")
        await replicator(database, "cutover", "--wait")
    assert (code, shown) == (0, "The cutover is complete: writers waited 12 ms, 2 attempts, epoch 1.\n")
    assert (json_code, json.loads(json_shown), json_errors) == (0, CUT_OVER, "")
    assert [each.arguments for each in made.named("cutover")] == [
        {"wait": False, "timeout": None, "dry_run": False},
        {"wait": True, "timeout": 9.0, "dry_run": False},
        {"wait": True, "timeout": None, "dry_run": False},
    ]


async def test_a_cutover_that_is_not_ready_shows_each_gate(database: Database) -> None:
    async with daemon(database, answers(3, NOT_READY)):
        code, shown, errors = await replicator(database, "cutover")
        json_code, json_shown, _ = await replicator(database, "cutover", "--json")
    assert code == 3
    assert [line.strip() for line in shown.splitlines()] == [
        "ok  lag     below 1.0 MB for 5 s",
        "no  verify  no clean pass yet",
    ]
    assert errors.endswith("error: A gate is not open: verify.\n  what to do: Wait for it.\n")
    assert (json_code, json.loads(json_shown)) == (3, {**NOT_READY, "kind": "not_ready"})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_ctrl_c_cancels_the_cutover_and_says_what_became_of_it(
    database: Database, number: signal.Signals
) -> None:
    async with daemon(database, wait_for_cancel) as made:
        program = await Program.start(database, "cutover", "--wait")
        await until(lambda: "waiting for the gates (not open: verify)\n" in program.err)
        program.send(number)
        code, _, errors = await program.end()
    assert code == 1
    assert "Cancelling the cutover; " in errors
    assert errors.endswith("error: The cutover was cancelled.\n")
    assert len(made.named("cancel")) == 1


async def test_a_cutover_that_was_complete_before_the_cancel_is_told_as_complete(database: Database) -> None:
    async def take(made: Daemon, command: Command) -> None:
        await mailbox.report_progress(made.connection, command.id, {"step": "draining"})
        await made.cancelled(command)
        await made.answer(command, 0, CUT_OVER)

    async with daemon(database, take):
        program = await Program.start(database, "cutover", "--wait")
        await until(lambda: "draining\n" in program.err)
        program.send(signal.SIGINT)
        code, shown, _ = await program.end()
    assert code == 0
    assert shown.startswith("The cutover is complete: ")


async def test_a_second_ctrl_c_does_not_wait(database: Database) -> None:
    async with daemon(database, never) as made:
        program = await Program.start(database, "cutover", "--wait")
        await until(lambda: made.named("cutover"))
        program.send(signal.SIGINT)
        await until(lambda: "Cancelling" in program.err)
        program.send(signal.SIGINT)
        code, _, _ = await program.end()
    assert code == 130
    assert len(made.named("cancel")) == 1
