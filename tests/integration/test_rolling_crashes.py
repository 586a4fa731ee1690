"""The daemon dies at a step of the moves into and out of a rolling deploy; the next finds one consistent state."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from replicator import Migration
from replicator.runtime.failpoints import Failpoint
from replicator.settings import Settings
from replicator.switchover.phases import CLOSING, COMPLETION, OPENING, Phase, Transition
from tests.bidirectional import Both, rolling
from tests.deaths import KilledError, killed_at
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.statements import one, refused
from tests.two_ways import create_old, two_ways

pytestmark = pytest.mark.one_server

Step = tuple[Failpoint, int]
"""A failpoint, and which passing of it."""

ALL = bool(os.environ.get("REPLICATOR_TEST_ROLLING_CRASHES"))
"""Every step, with one database too, which takes five minutes for each server; else some."""
MADE: list[Step] = [(Failpoint.OPPOSITE_MADE, 1), (Failpoint.OPPOSITE_FILLED, 1)]
BEFORE: list[Step] = [
    (Failpoint.PHASE_STORED, 1),
    (Failpoint.CUTOVER_LOCKED, 1),
    (Failpoint.CUTOVER_DRAINED, 1),
    (Failpoint.CUTOVER_CHECKED, 1),
    (Failpoint.CUTOVER_GUARDED, 1),
    (Failpoint.CUTOVER_COMMITTING, 1),
]
"""Before the commit."""
AFTER: list[Step] = [
    (Failpoint.CUTOVER_COMMITTED, 1),
    (Failpoint.ACTIVATING, 1),
    (Failpoint.ACTIVATED, 1),
    (Failpoint.PHASE_COMING, 2),
]
LEFT: list[Step] = [(Failpoint.RETIRING, 1), (Failpoint.RETIRED, 1)]
"""After the commit, when one of the pipelines ends."""


def some(steps: list[Step]) -> list[Step]:
    """The last one that is before something, and the first that is after it."""
    return steps if ALL else steps[-1:] if steps is BEFORE else steps[:1]


async def die_at(running: Both, move: Transition, point: Failpoint, passing: int) -> None:
    """Make a move, up to a failpoint; there all of the daemon ends."""
    with killed_at(point, passing):
        with pytest.raises(KilledError):
            await running.session.switchovers.run(move, running.report)
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)


@contextlib.asynccontextmanager
async def next_life(settings: Settings, migration: Migration) -> AsyncIterator[Both]:
    async with rolling(settings, migration) as running:
        await running.until(running.session.up.is_set)
        yield running


async def look(running: Both, phase: Phase, number: int) -> None:
    """The phase, who may write where, and that what is written arrives."""
    old, new = running.settings.source, running.settings.target
    assert running.session.phase.now == phase
    both, owner = phase == Phase.ROLLING, "shop" if phase == Phase.SOAK else "public"
    for dsn in (old, new):
        assert one(dsn, "SELECT replicator.active_schema()") == owner
        assert one(dsn, "SELECT replicator.use_new_schema()") is (both or phase == Phase.SOAK)
    assert refused(old, "UPDATE people SET name = 'x' WHERE id = 3") is (phase == Phase.SOAK)
    assert refused(new, "UPDATE shop.customers SET name = 'x' WHERE id = 4") is (phase == Phase.FOLLOW)
    if phase != Phase.SOAK:
        execute(old, [f"UPDATE people SET name = 'old {number}' WHERE id = 1"])
        await running.until(lambda: one(new, "SELECT name FROM shop.customers WHERE id = 1") == f"old {number}")
    if phase != Phase.FOLLOW:
        execute(new, [f"UPDATE shop.customers SET name = 'new {number}' WHERE id = 2"])
        await running.until(lambda: one(old, "SELECT name FROM people WHERE id = 2") == f"new {number}")
    if both:
        await running.quiet()
        assert await running.unequal() == []
        return
    await running.clean()
    assert await running.unequal() == []
    for dsn in (old, new):
        assert one(dsn, "SELECT count(*) FROM _replicator.redo") == 0
        assert one(dsn, "SELECT count(*) FROM _replicator.deleted") == 0
    slots = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '{running.settings.slot}%'"
    assert one(old, slots) == 1
    assert one(old, "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'replicator%'") == 0


@pytest.fixture(params=["one database", "two databases"] if ALL else ["two databases"])
def settings(request: pytest.FixtureRequest, database: Database) -> Settings:
    create_old(database.dsn)
    return make_settings(
        database, database if request.param == "one database" else request.getfixturevalue("other_database")
    )


async def test_on_the_way_in(settings: Settings, tmp_path: Path) -> None:
    migration = two_ways(tmp_path)
    async with rolling(settings, migration) as running:
        await running.ready()
    for number, (point, passing) in enumerate([*some(MADE), *some(BEFORE)]):
        async with next_life(settings, migration) as running:
            await running.ready()
            await die_at(running, OPENING, point, passing)
        async with next_life(settings, migration) as running:
            await look(running, Phase.FOLLOW, number)
    for number, (point, passing) in enumerate(some(AFTER), start=100):
        async with next_life(settings, migration) as running:
            await running.ready()
            await die_at(running, OPENING, point, passing)
        async with next_life(settings, migration) as running:
            await look(running, Phase.ROLLING, number)
            await running.close()
            await look(running, Phase.FOLLOW, number)


@pytest.mark.parametrize("move", [COMPLETION, CLOSING], ids=["complete", "rollback"])
async def test_on_the_way_out(settings: Settings, tmp_path: Path, move: Transition) -> None:
    migration = two_ways(tmp_path)
    async with rolling(settings, migration) as running:
        await running.open()
    for number, (point, passing) in enumerate(some(BEFORE)):
        async with next_life(settings, migration) as running:
            await die_at(running, move, point, passing)
        async with next_life(settings, migration) as running:
            await look(running, Phase.ROLLING, number)
    for number, (point, passing) in enumerate([*some(AFTER), *some(LEFT)], start=100):
        async with next_life(settings, migration) as running:
            await die_at(running, move, point, passing)
        async with next_life(settings, migration) as running:
            await look(running, move.after, number)
            if move is COMPLETION:
                await running.roll_back()
                await running.clean()
            await running.open()
