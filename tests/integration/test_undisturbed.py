"""Ownership that moves while a command, or a second daemon's start, reads the tables by their names."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest

from replicator.errors import ConnectionLostError, DefinitionError, RetryableError
from replicator.migration import Migration
from replicator.postgres.control.control import install
from replicator.postgres.control.undisturbed import undisturbed
from replicator.postgres.session.connect import connection
from replicator.preflight import checks
from replicator.preflight.whole import WholeReport
from replicator.runbook import dry_run as dry_running
from replicator.runbook import explaining, one_row
from replicator.settings import Settings
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.small import create_small, small_migration

pytestmark = pytest.mark.one_server

MOVES = "UPDATE _replicator.ownership SET epoch = epoch + 1"
RENAMES = """
INSERT INTO _replicator.renames (ordinal, kind, from_schema, from_name, to_schema, to_name)
VALUES (1, 'table', 'a', 'b', 'c', 'd')
"""


class Work:
    """Fails as a renaming in the middle of it makes it fail, so many times."""

    def __init__(self, moves: Callable[[], None], times: int, *, fails: bool = True) -> None:
        self._moves = moves
        self._times = times
        self._fails = fails
        self.done = 0

    async def __call__(self) -> str:
        self.done += 1
        if self.done <= self._times:
            await asyncio.to_thread(self._moves)
            if self._fails:
                raise DefinitionError("relation people does not exist")
        return "found"


@pytest.fixture
async def moving(database: Database, tmp_path: Path) -> Callable[[str], None]:
    create_small(database.dsn)
    async with connection(database.dsn, "test") as opened:
        await install(opened, small_migration(tmp_path))
    return lambda statement: execute(database.dsn, [statement])


@pytest.mark.parametrize("statement", [MOVES, RENAMES])
@pytest.mark.parametrize("fails", [True, False])
async def test_the_work_is_done_again(
    database: Database, moving: Callable[[str], None], statement: str, fails: bool
) -> None:
    work = Work(lambda: moving(statement), 1, fails=fails)
    assert await undisturbed([database.dsn], work, tries=2) == "found"
    assert work.done == 2


async def test_it_is_not_done_for_ever(database: Database, moving: Callable[[str], None]) -> None:
    work = Work(lambda: moving(MOVES), 5)
    with pytest.raises(RetryableError, match="Ownership of the data moved"):
        await undisturbed([database.dsn], work, tries=2)
    assert work.done == 2


async def test_an_error_of_its_own_is_told_at_once(database: Database, moving: Callable[[str], None]) -> None:
    work = Work(lambda: None, 1)
    with pytest.raises(DefinitionError, match="does not exist"):
        await undisturbed([database.dsn], work, tries=3)
    assert work.done == 1


async def test_before_the_first_start_and_without_a_server(database: Database) -> None:
    assert await undisturbed([database.dsn, "postgresql://127.0.0.1:1/x"], Work(lambda: None, 0)) == "found"


async def test_the_checks_begin_anew(
    database: Database, moving: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, looked = checks._check, 0

    async def meanwhile(report: WholeReport, *arguments: object) -> None:
        nonlocal looked
        looked += 1
        await check(report, *arguments)  # type: ignore[arg-type]
        if looked == 1:
            await asyncio.to_thread(moving, MOVES)
            raise DefinitionError("A table is not what it was.")

    monkeypatch.setattr(checks, "_check", meanwhile)
    report = await checks.whole_preflight(make_settings(database), small_migration(tmp_path / "again"))
    assert looked == 2
    assert "A table is not what it was" not in "".join(each.detail for each in report.findings)


Command = Callable[[Settings, Migration], object]


@pytest.mark.parametrize(
    "command",
    [
        lambda settings, migration: dry_running.dry_run(settings, migration, None, lambda *_: None),
        explaining.explain,
        lambda settings, migration: one_row.try_row(settings, migration, "people", ("1",)),
    ],
    ids=["dry-run", "explain", "try"],
)
async def test_a_command_says_to_run_it_again(
    database: Database, moving: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    async def meanwhile(*_: object) -> None:
        await asyncio.to_thread(moving, MOVES)
        raise DefinitionError("A table is not what it was.")

    for module in (dry_running, explaining, one_row):
        monkeypatch.setattr(module, "rehearsed_plan", meanwhile)
    with psycopg.connect(database.dsn) as old:
        old.execute("INSERT INTO people VALUES (1, 'ann', '1', '')")
    with pytest.raises(RetryableError) as raised:
        await command(make_settings(database), small_migration(tmp_path / "again"))  # type: ignore[misc]
    assert raised.value.remedy == "Run it again."


async def test_a_server_that_goes_is_no_move(
    database: Database, moving: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the work says of it is the answer; to run it again would be none."""

    async def gone() -> str:
        monkeypatch.setattr("replicator.postgres.control.undisturbed.connection", nowhere)
        raise ConnectionLostError("The server has gone.")

    def nowhere(*_: object, **__: object) -> NoReturn:
        raise ConnectionLostError("The server has gone.")

    with pytest.raises(ConnectionLostError, match="has gone"):
        await undisturbed([database.dsn], gone)
