"""The journal: what happened, when and who did it, by the command and in SQL."""

import asyncio
import getpass
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration
from replicator.daemon import daemon
from replicator.errors import ExitCode, MigrationError, NotReadyError
from replicator.postgres.control import control, mailbox
from replicator.postgres.control.journal import Entry, read_journal, recorded
from replicator.postgres.session.connect import connection
from replicator.runtime.failpoints import Failpoint, handled
from tests.engine import SECONDS, make_settings, reference
from tests.fix_postgres import Database
from tests.programs import replicator
from tests.reference import seed
from tests.waiting import until

pytestmark = pytest.mark.two_servers

BY = f"{getpass.getuser()}@{socket.gethostname()}"


async def entries(database: Database) -> list[Entry]:
    async with connection(database.dsn, "test") as opened:
        return await read_journal(opened)


async def install(database: Database) -> None:
    async with connection(database.dsn, "test") as opened:
        await control.install(opened, Migration("party", old="public", new="party"))


async def ask(database: Database, command: str, arguments: Mapping[str, Any]) -> mailbox.Command:
    """A request, and its answer."""
    async with connection(database.dsn, "test") as opened:
        number = await mailbox.request(opened, command, arguments)

        async def answered() -> mailbox.Command | None:
            found = await mailbox.read_command(opened, number)
            return found if found.finished_at is not None else None

        answer: mailbox.Command = await until(answered)
        return answer


async def until_phase(database: Database, phase: str) -> None:
    async with connection(database.dsn, "test") as opened:

        async def entered() -> bool:
            return await control.installed(opened) and await control.read_phase(opened) == phase

        await until(entered)


@pytest.mark.every_server
async def test_a_daemon_enters_its_life_and_what_it_was_asked(database: Database) -> None:
    seed(database.dsn)
    stop = asyncio.Event()
    running = asyncio.create_task(daemon.run(make_settings(database), reference(), stop=stop))
    async with asyncio.timeout(SECONDS):
        await until_phase(database, "follow")
        answer = await ask(database, "verify", {"repair": True})
        refused = await ask(database, "dance", {})
        stop.set()
        await running
    assert answer.exit_code == ExitCode.DONE
    assert refused.exit_code == ExitCode.FAILED
    found = await entries(database)
    assert [each.event for each in found] == ["start", "phase", "phase", "phase", "command", "command", "stop"]
    assert [each.details["phase"] for each in found if each.event == "phase"] == ["backfill", "build", "follow"]
    start, stopped = found[0].details, found[-1].details
    assert (start["pid"], start["host"]) == (os.getpid(), socket.gethostname())
    assert stopped["reason"] == "It was told to stop."
    verified, unknown = (each for each in found if each.event == "command")
    assert {name: verified.details[name] for name in ("command", "arguments", "by", "exit_code")} == {
        "command": "verify",
        "arguments": {"repair": True},
        "by": BY,
        "exit_code": 0,
    }
    assert verified.details["result"] == {"clean": True, "repaired": 0, "discarded": 0, "quarantined": 0}
    assert verified.details["seconds"] >= 0
    assert "dance" in unknown.details["result"]["error"]


async def test_a_daemon_that_fails_enters_why(database: Database) -> None:
    async def fail() -> None:
        raise NotReadyError("The moon is new.")

    seed(database.dsn)
    with handled(Failpoint.RESUMING, fail), pytest.raises(NotReadyError):
        await daemon.run(make_settings(database), reference(), stop=asyncio.Event())
    found = await entries(database)
    assert [each.event for each in found] == ["start", "stop"]
    assert found[1].details.items() >= {"reason": "The moon is new.", "kind": "not_ready"}.items()


async def test_the_asker_is_entered_not_the_daemon(database: Database) -> None:
    await install(database)
    name = f"{database.name}_asker"
    async with connection(database.dsn, "test") as opened:
        await opened.execute(f'CREATE ROLE "{name}"'.encode())
        try:
            await opened.execute(f'GRANT USAGE ON SCHEMA _replicator TO "{name}"'.encode())
            await opened.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA _replicator TO "{name}"'.encode())
            await opened.execute(f'SET SESSION AUTHORIZATION "{name}"'.encode())
            number = await mailbox.request(opened, "cutover", {"wait": False})
            await opened.execute("RESET SESSION AUTHORIZATION")
            await mailbox.finish_command(opened, number, 3, {"error": "No.", "gates": [{"name": "lag"}]})
            (entry,) = await read_journal(opened)
        finally:
            await opened.execute(f'DROP OWNED BY "{name}"'.encode())
            await opened.execute(f'DROP ROLE "{name}"'.encode())
    assert entry.who == name
    assert entry.details["exit_code"] == 3
    assert entry.details["result"] == {"error": "No."}


async def test_a_command_without_the_daemon_is_entered_however_it_ends(database: Database) -> None:
    await install(database)
    async with recorded(database.dsn, "schema", {"parts": []}) as entry:
        entry["statements"] = 3
    with pytest.raises(MigrationError):
        async with recorded(database.dsn, "schema", {"parts": ["tables"]}):
            raise MigrationError("The statement is wrong.")
    with pytest.raises(asyncio.CancelledError):
        async with recorded(database.dsn, "schema", {}):
            raise asyncio.CancelledError
    done, failed, interrupted = (each.details for each in await entries(database))
    assert (done["exit_code"], done["result"], done["by"]) == (0, {"statements": 3}, BY)
    assert (failed["exit_code"], failed["result"]["error"]) == (2, "The statement is wrong.")
    assert interrupted["result"]["error"] == "It was interrupted."


async def test_before_the_migration_there_is_no_journal(database: Database) -> None:
    async with recorded(database.dsn, "schema", {}):
        pass
    assert await entries(database) == []
    assert await replicator(database, "journal") == (0, "Nothing has happened yet.\n", "")


async def test_the_command_shows_what_sql_shows(database: Database, tmp_path: Path) -> None:
    await install(database)
    with psycopg.connect(database.dsn, autocommit=True) as opened:
        opened.execute(
            "INSERT INTO _replicator.journal (who, event, details) VALUES "
            "('dba', 'phase', '{\"phase\": \"follow\"}'), "
            '(\'app\', \'command\', \'{"command": "verify", "arguments": {"repair": true}, "by": "ada@desk"}\')'
        )
    code, shown, errors = await replicator(database, "journal")
    assert (code, errors) == (0, "")
    first, second = shown.splitlines()
    assert first.split()[2:] == ["dba", "phase", "phase", "follow"]
    assert second.rstrip().endswith("app (ada@desk)  command  command verify, repair true")
    _, shown, _ = await replicator(database, "journal", "--limit", "1", "--json")
    (entry,) = json.loads(shown)["entries"]
    assert (entry["event"], entry["details"]["arguments"]) == ("command", {"repair": True})
    with psycopg.connect(database.dsn) as opened:
        row = opened.execute("SELECT id, at::timestamptz FROM _replicator.journal ORDER BY id DESC LIMIT 1").fetchone()
    assert row is not None
    assert entry["id"] == row[0]
