"""Verification while writers write on: it finds nothing that is not there, misses nothing, and comes to an end."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration, Row
from replicator.core.dirty_keys import DirtyKeys
from replicator.verify import Verifier
from replicator.verify import verifier as passes
from tests.engine import SECONDS, Engine, differences, execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import Running, daemon
from tests.statements import one

pytestmark = pytest.mark.one_server

BEHIND = "SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets"
VISITS = """
CREATE TABLE visits (id integer, day integer, place text, PRIMARY KEY (id, day));
INSERT INTO visits SELECT i, 0, 'p' || i FROM generate_series(1, 300) i;
"""
Write = Callable[[psycopg.Connection[Any], int], object]


def visits_migration(folder: Path, key: Callable[[Row], Any] = lambda old: old["id"]) -> Migration:
    """Of each visitor one row, whose key leaves out the day."""
    new = folder / "new"
    new.mkdir()
    (new / "10_tables.sql").write_text(
        "CREATE SCHEMA store; CREATE TABLE store.visits (id integer PRIMARY KEY, day integer, place text);"
    )
    migration = Migration("visits", old="public", new="store", sql=folder)

    @migration.transform(source="visits", into="visits", key=key)
    def visit(old: Row) -> dict[str, Any] | None:
        if old["place"] == "nowhere":
            return None
        return {"id": key(old), "day": old["day"], "place": old["place"]}

    return migration


@contextlib.contextmanager
def writing(dsn: str, write: Write) -> Iterator[Callable[[], int]]:
    """Write transaction after transaction in a thread; gives how many there have been."""
    done, written = threading.Event(), [0]

    def run() -> None:
        with psycopg.connect(dsn, autocommit=True) as opened:
            while not done.is_set():
                write(opened, written[0])
                written[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lambda: written[0]
    finally:
        done.set()
        thread.join()


@contextlib.asynccontextmanager
async def visits(
    database: Database, migration: Migration, capacity: int = 200_000, **others: Any
) -> AsyncIterator[Engine]:
    """Followed, copied, and ready to be verified."""
    execute(database.dsn, [VISITS])
    made = Engine(make_settings(database, **others), migration)
    await made.set_up()
    try:
        pipeline = await made.start()
        pipeline.context.dirty_keys = DirtyKeys(capacity=capacity)
        await made.backfill()
        await pipeline.verifier.open()
        yield made
    finally:
        await made.stop()


async def step_until(made: Engine, holds: Callable[[], bool], step: Callable[[], Awaitable[Any]]) -> None:
    """Take steps until a condition holds."""
    async with asyncio.timeout(SECONDS):
        while not holds():
            await made.within(step())


def found(made: Engine) -> set[tuple[str, tuple[str, ...]]]:
    return {(each.kind, each.key) for each in made.running.verifier.divergences}


def next_day(opened: psycopg.Connection[Any], number: int) -> None:
    """One row all the time, and every other row from time to time."""
    opened.execute("UPDATE visits SET day = day + 1 WHERE id IN (1, %s)", (number % 300 + 1,))


def hand_over(opened: psycopg.Connection[Any], number: int) -> None:
    """The row of one visitor goes, and another one comes for it, in one transaction."""
    with opened.transaction():
        opened.execute("DELETE FROM visits WHERE id = 1")
        opened.execute("INSERT INTO visits VALUES (1, %s, 'p')", (-number,))


def far_away(opened: psycopg.Connection[Any], number: int) -> None:
    """The row moves from one end of the key's order to the other: ahead of a pass, and behind it."""
    opened.execute("UPDATE visits SET id = -id, place = %s WHERE abs(id) = 150", (str(number),))


@pytest.mark.parametrize(
    ("write", "key"),
    [
        (next_day, lambda old: old["id"]),
        (hand_over, lambda old: old["id"]),
        (far_away, lambda old: abs(old["id"])),
    ],
    ids=["next day", "hand over", "far away"],
)
async def test_a_row_that_passes_its_target_key_on_all_the_time_is_no_divergence(
    database: Database, tmp_path: Path, write: Write, key: Callable[[Row], Any]
) -> None:
    async with visits(database, visits_migration(tmp_path, key), chunk_rows=20) as made:
        verifier = made.running.verifier
        with writing(database.dsn, write) as written:
            for _ in range(3):
                await made.within(verifier.full_pass())
                assert found(made) == set()
                before = written()
                await step_until(made, lambda before=before: written() > before + 100, verifier.settle)  # type: ignore[misc]
                assert found(made) == set()
            assert verifier.clean, verifier.standing.text
        await made.drain()
        # Only the last of the source keys that had a target key one after the other may still wait. It is asked when
        # nobody writes: what waits meanwhile hangs on how many rows are written between two looks.
        await step_until(made, lambda: made.running.context.dirty_keys.waiting_count() < 600, verifier.settle)
        assert await verifier.final_check() == []
        assert await differences(made) == []


async def test_a_row_that_no_other_source_row_gives_is_found(database: Database, tmp_path: Path) -> None:
    async with visits(database, visits_migration(tmp_path)) as made:
        verifier = made.running.verifier
        await made.within(verifier.full_pass())
        execute(database.dsn, ["UPDATE visits SET day = day + 1", "DELETE FROM visits WHERE id = 7"])
        await made.drain()
        execute(database.dsn, [BEHIND, "INSERT INTO store.visits VALUES (7, 1, 'left behind')"])
        await made.within(verifier.settle())
        assert found(made) == {("extra", ("7",))}
        assert verifier.standing.text == "1 row diverges; see `replicator verify --repair`"
        execute(database.dsn, ["INSERT INTO visits VALUES (7, 9, 'again')"])
        await made.drain()
        await made.within(verifier.settle())
        assert found(made) == set()
        assert verifier.clean


async def test_a_row_that_a_source_row_gives_which_was_compared_before_is_not_extra(
    database: Database, tmp_path: Path
) -> None:
    async with visits(database, visits_migration(tmp_path)) as made:
        verifier = made.running.verifier
        await made.within(verifier.full_pass())
        made.running.context.dirty_keys.touch("visits", [("7", "12345")])  # as if it had given the row once
        await made.within(verifier.settle())
        assert found(made) == set()
        assert made.running.context.dirty_keys.waiting_count() == 0
        made.running.context.dirty_keys.touch("visits", [("7", "12345")])
        assert await verifier.final_check() == []


@pytest.mark.parametrize("at_last", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        ["INSERT INTO visits VALUES (7, -1, 'nowhere')"],
        ["INSERT INTO visits VALUES (7, 1, 'next')", "DELETE FROM visits WHERE id = 7 AND day = 0"],
    ],
    ids=["by one that gives nothing", "by one that goes later"],
)
async def test_a_row_is_not_lost_by_the_change_of_another_and_would_be_found_at_once(
    database: Database, tmp_path: Path, changes: list[str], at_last: bool
) -> None:
    """``key=`` leads from two rows to one."""
    async with visits(database, visits_migration(tmp_path)) as made:
        verifier = made.running.verifier
        await made.within(verifier.full_pass())
        for change in changes:
            await made.within(verifier.settle())
            execute(database.dsn, [change])
            await made.drain()
        assert await differences(made) == []
        execute(database.dsn, [BEHIND, "DELETE FROM store.visits WHERE id = 7"])
        if at_last:
            await verifier.final_check()
        else:
            await step_until(made, lambda: found(made) == {("missing", ("7",))}, verifier.settle)
        assert found(made) == {("missing", ("7",))}


@pytest.mark.parametrize("at_last", [False, True])
async def test_two_rows_that_come_to_give_one_are_found_at_once(
    database: Database, tmp_path: Path, at_last: bool
) -> None:
    async with visits(database, visits_migration(tmp_path)) as made:
        verifier = made.running.verifier
        await made.within(verifier.full_pass())
        execute(database.dsn, ["INSERT INTO visits VALUES (7, 1, 'next')"])
        await made.drain()
        if at_last:
            await verifier.final_check()
        else:
            await made.within(verifier.settle())
            await made.within(verifier.settle())
        owners = {each.owners for each in verifier.divergences}
        assert [set(each) for each in owners] == [{("visit", ("7", "0")), ("visit", ("7", "1"))}]
        assert "no repair can mend" in verifier.standing.text
        execute(database.dsn, ["UPDATE visits SET id = 1000 WHERE id = 7 AND day = 0"])
        await made.drain()
        await step_until(made, lambda: verifier.clean, verifier.settle)
        assert await differences(made) == []


async def test_what_memory_has_no_room_for_is_compared_all_the_same_while_writers_write_on(
    database: Database, tmp_path: Path
) -> None:
    async with visits(database, visits_migration(tmp_path), capacity=40, chunk_rows=20) as made:
        verifier, touches = made.running.verifier, made.running.context.dirty_keys
        execute(database.dsn, ["UPDATE visits SET place = place || '.'"])
        await made.drain()
        assert touches.on_disk("visits") > 200
        with writing(database.dsn, next_day):
            await made.within(verifier.full_pass())
            await step_until(made, lambda: verifier.clean, verifier.settle)
            execute(database.dsn, ["UPDATE visits SET place = 'all' WHERE id > 1"])
            await step_until(made, lambda: touches.on_disk("visits") > 100, lambda: asyncio.sleep(0.01))
            assert verifier.clean, verifier.standing.text
        await made.drain()
        execute(database.dsn, [BEHIND, "UPDATE store.visits SET place = 'spoiled' WHERE id IN (2, 150, 300)"])
        await made.within(verifier.settle())
        assert found(made) == {("different", (key,)) for key in ("2", "150", "300")}


async def test_a_pass_compares_what_is_touched_meanwhile_and_piles_nothing_up(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "KEYS_AT_ONCE", 50)
    async with visits(database, visits_migration(tmp_path), chunk_rows=20) as made:
        verifier, touches = made.running.verifier, made.running.context.dirty_keys
        most = 0

        def write(opened: psycopg.Connection[Any], number: int) -> None:
            nonlocal most
            opened.execute("INSERT INTO visits SELECT %s - i, 0, 'new' FROM generate_series(1, 30) i", (-30 * number,))
            most = max(most, touches.waiting_count())
            time.sleep(0.02)  # what follow can bear

        with writing(database.dsn, write) as written:
            await made.within(verifier.full_pass())
            assert most < 30 * written() / 2, "nothing was compared before the pass had ended"
            assert verifier.clean, verifier.standing.text


async def test_all_rows_of_a_source_wait_when_even_the_disk_takes_nothing_and_the_pass_still_counts(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("replicator.core.spill.Spill.append", full)
    monkeypatch.setattr("replicator.verify.settling.FINAL_KEYS", 200)
    monkeypatch.setattr("replicator.verify.standing.FINAL_KEYS", 200)
    async with visits(database, visits_migration(tmp_path), capacity=250) as made:
        verifier = made.running.verifier
        await made.within(verifier.full_pass())

        def write(opened: psycopg.Connection[Any], number: int) -> None:
            next_day(opened, number)
            time.sleep(0.05)  # else the disk would be asked for again and again

        with writing(database.dsn, write):
            execute(database.dsn, ["UPDATE visits SET place = place || '.'"])
            await made.drain()
            assert "all rows of visits have changed" in verifier.standing.text
            await step_until(made, lambda: verifier.clean, verifier.settle)
        await made.drain()
        execute(database.dsn, ["UPDATE visits SET place = 'x'"])
        await made.drain()
        execute(database.dsn, [BEHIND, "UPDATE store.visits SET place = 'spoiled' WHERE id = 7"])
        await step_until(made, lambda: bool(found(made)), verifier.settle)
        assert found(made) == {("different", ("7",))}


# ---- as a daemon does it


def verifier_of(running: Running) -> Verifier:
    assert running.active is not None
    return running.active.verifier


def days_migration(folder: Path) -> Migration:
    """There, the day becomes a part of the key; on the way back, the key is computed without it."""
    new = folder / "new"
    new.mkdir()
    (new / "10_tables.sql").write_text(
        "CREATE SCHEMA store; CREATE TABLE store.stays (id integer, day integer, place text, PRIMARY KEY (id, day));"
    )
    migration = Migration("days", old="public", new="store", sql=folder)

    @migration.transform(source="stays", into="stays")
    def stay(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.reverse(source="stays", into="stays", key=lambda new: new["id"])
    def old_stay(new: Row) -> dict[str, Any]:
        return dict(new)

    return migration


async def test_writers_who_change_keys_all_the_time_are_in_the_way_of_no_move(
    database: Database, tmp_path: Path
) -> None:
    execute(
        database.dsn,
        [
            "CREATE TABLE stays (id integer PRIMARY KEY, day integer, place text)",
            "INSERT INTO stays SELECT i, 0, 'p' || i FROM generate_series(1, 100) i",
        ],
    )
    schema = "public"

    def write(opened: psycopg.Connection[Any], number: int) -> None:
        with contextlib.suppress(psycopg.Error):  # RP002, until the daemon has told us the other one
            opened.execute(f"UPDATE {schema}.stays SET day = day + 1 WHERE id IN (1, {number % 100 + 1})".encode())
        time.sleep(0.01)

    async with daemon(make_settings(database), days_migration(tmp_path)) as running:
        await running.ready()
        with writing(database.dsn, write) as written:
            await running.cut_over()
            schema = "store"
            passes_before, before = verifier_of(running).passes, written()
            await running.until(lambda: written() > before + 100 and verifier_of(running).passes > passes_before)
            await running.clean()
            assert verifier_of(running).divergences == []
            result = await running.roll_back()
            assert result.epoch == 2
            schema = "public"
            await running.clean()
        await running.until(
            lambda: (
                one(database.dsn, "SELECT sum(day) FROM stays") == one(database.dsn, "SELECT sum(day) FROM store.stays")
            )
        )
        await running.clean()
