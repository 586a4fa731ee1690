"""Both schemas take writes: nothing comes back, who wrote last wins, and both sides are equal in the end."""

import asyncio
import contextlib
import logging
import os
import random
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import psycopg
import pytest

from replicator.core.tables import Name
from replicator.errors import CheckError, NotReadyError
from replicator.migration import Direction
from replicator.pipeline.repair import repair
from replicator.pipeline.setup import read_plan
from replicator.runbook.finish import abort
from replicator.runtime.failpoints import Failpoint
from replicator.settings import Settings
from replicator.switchover.phases import CLOSING, COMPLETION, OPENING, Phase, Transition
from replicator.switchover.rolling import check_rolling
from tests.bidirectional import Both, rolling
from tests.deaths import KilledError, killed_at
from tests.engine import Engine, create_old_tables, execute, make_settings, reference
from tests.fix_postgres import Database, MakeCluster
from tests.statements import one, refused
from tests.two_ways import create_old, two_ways

pytestmark = pytest.mark.two_servers


@pytest.fixture(params=["one database", "two databases"])
def sides(request: pytest.FixtureRequest, database: Database) -> tuple[Database, Database]:
    create_old(database.dsn)
    return database, database if request.param == "one database" else request.getfixturevalue("other_database")


async def test_both_schemas_take_writes_and_nothing_comes_back(
    sides: tuple[Database, Database], tmp_path: Path
) -> None:
    old, new = sides
    async with rolling(make_settings(old, new), two_ways(tmp_path)) as running:
        await running.open()
        assert one(old.dsn, "SELECT replicator.active_schema()") == "public"
        for dsn in (old.dsn, new.dsn):
            assert one(dsn, "SELECT replicator.use_new_schema()") is True
        assert one(new.dsn, "SELECT phase FROM _replicator.state") == "rolling"
        execute(
            old.dsn,
            [
                "UPDATE people SET name = 'old one' WHERE id = 1",
                "INSERT INTO addresses VALUES (1, 'work', 'old street')",
                "INSERT INTO people VALUES (101, 'old new', 'b')",
                "DELETE FROM notes WHERE id = 3",
            ],
        )
        execute(
            new.dsn,
            [
                "UPDATE shop.customers SET name = 'new two' WHERE id = 2",
                "UPDATE shop.profiles SET bio = 'new bio' WHERE customer = 2",
                "INSERT INTO shop.customers VALUES (102, 'new new', '{\"home\": \"new street\"}')",
                "INSERT INTO shop.profiles VALUES (102, 'b')",
                "INSERT INTO shop.notes VALUES ('c104', 104, 'new note')",
                "DELETE FROM shop.notes WHERE code = 'c4'",
            ],
        )
        await running.quiet()
        assert one(new.dsn, "SELECT name || addresses::text FROM shop.customers WHERE id = 1") == (
            'old one{"home": "street 1", "work": "old street"}'
        )
        assert one(old.dsn, "SELECT name || bio FROM people WHERE id = 2") == "new twonew bio"
        assert one(old.dsn, "SELECT street FROM addresses WHERE person = 102") == "new street"
        assert one(old.dsn, "SELECT body FROM notes WHERE id = 104") == "new note"
        assert one(old.dsn, "SELECT count(*) FROM notes WHERE id IN (3, 4)") == 0
        assert await running.unequal() == []
        assert running.conflicts() == {}
        # What came from the other side is changed here: its keys were remembered.
        execute(old.dsn, ["DELETE FROM notes WHERE id = 104", "DELETE FROM addresses WHERE person = 102"])
        await running.quiet()
        assert one(new.dsn, "SELECT count(*) FROM shop.notes WHERE code = 'c104'") == 0
        assert one(new.dsn, "SELECT addresses::text FROM shop.customers WHERE id = 102") == "{}"
        assert await running.unequal() == []
        written = [running.metrics.registry.get_sample_value("replicator_rows_written_total", labels) for labels in (
            {"table": "people", "operation": "upsert"}, {"table": "profiles", "operation": "upsert"},
        )]  # fmt: skip
        await running.quiet()
        assert written == [
            running.metrics.registry.get_sample_value("replicator_rows_written_total", labels)
            for labels in (
                {"table": "people", "operation": "upsert"},
                {"table": "profiles", "operation": "upsert"},
            )
        ]


@pytest.mark.one_server
async def test_completed_it_is_as_after_a_cutover(sides: tuple[Database, Database], tmp_path: Path) -> None:
    old, new = sides
    async with rolling(make_settings(old, new), two_ways(tmp_path)) as running:
        await running.open()
        execute(old.dsn, ["UPDATE people SET name = 'old one' WHERE id = 1"])
        execute(new.dsn, ["UPDATE shop.customers SET name = 'new two' WHERE id = 2"])
        await running.complete()
        assert running.session.phase.now == Phase.SOAK
        assert one(old.dsn, "SELECT replicator.active_schema()") == "shop"
        assert refused(old.dsn, "UPDATE people SET name = 'x'")
        assert one(new.dsn, "SELECT name FROM shop.customers WHERE id = 1") == "old one"
        execute(new.dsn, ["UPDATE shop.customers SET name = 'new three' WHERE id = 3"])
        await running.until(lambda: one(old.dsn, "SELECT name FROM people WHERE id = 3") == "new three")
        assert one(old.dsn, "SELECT name FROM people WHERE id = 2") == "new two"
        await running.clean()
        assert await running.unequal() == []
        assert one(old.dsn, "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'replicator%'") == 0
        await running.roll_back()
        assert not refused(old.dsn, "UPDATE people SET name = 'x'")
        assert refused(new.dsn, "UPDATE shop.customers SET name = 'x'")


@pytest.mark.one_server
async def test_given_up_only_the_old_schema_takes_writes(database: Database, tmp_path: Path) -> None:
    create_old(database.dsn)
    old = new = database
    async with rolling(make_settings(old, new), two_ways(tmp_path)) as running:
        await running.open()
        execute(old.dsn, ["UPDATE people SET name = 'old one' WHERE id = 1"])
        execute(new.dsn, ["UPDATE shop.customers SET name = 'new two' WHERE id = 2"])
        await running.close()
        assert running.session.phase.now == Phase.FOLLOW
        assert one(old.dsn, "SELECT name FROM people WHERE id = 2") == "new two"
        assert refused(new.dsn, "UPDATE shop.customers SET name = 'x'")
        execute(old.dsn, ["UPDATE people SET name = 'old three' WHERE id = 3"])
        await running.until(lambda: one(new.dsn, "SELECT name FROM shop.customers WHERE id = 3") == "old three")
        await running.clean()
        assert await running.unequal() == []
        await running.open()
        await running.complete()
        assert one(old.dsn, "SELECT replicator.active_schema()") == "shop"


# ---- conflicts, one by one

OLD_NAME = "SELECT name FROM people WHERE id = 1"
NEW_NAME = "SELECT name FROM shop.customers WHERE id = 1"


async def collide(
    running: Both, sides: tuple[Database, Database], writes: list[tuple[str, list[str]]], meanwhile: Direction | None
) -> None:
    """Write on both sides, in this order, before either side has heard of the other; then let them.

    :param meanwhile: the pipeline that applies all of its own before the other one begins; None: whoever comes first.
    """
    dsns = {"old": sides[0].dsn, "new": sides[1].dsn}
    other: Direction = "reverse" if meanwhile == "forward" else "forward"
    async with running.paused(other):
        async with running.paused("forward" if other == "reverse" else "reverse"):
            for side, statements in writes:
                # In a thread: what locks a table waits for a read of the daemon's, which must go on to its end.
                await asyncio.to_thread(execute, dsns[side], statements)
                await asyncio.sleep(0.001)  # two commits in one microsecond would be a tie
        if meanwhile is not None:
            marker = f"first {meanwhile}"
            await running.pipeline(meanwhile).nudge(marker)
            await asyncio.wait_for(running.pipeline(meanwhile).wait_message(marker), 30)
    await running.quiet()


FIRST: list[Direction | None] = ["forward", "reverse", None]

PERSON_OLD = ["UPDATE people SET name = 'old' WHERE id = {i}"]
PERSON_NEW = ["UPDATE shop.customers SET name = 'new' WHERE id = {i}"]
DELETE_OLD = ["DELETE FROM people WHERE id = {i}", "DELETE FROM addresses WHERE person = {i}"]
DELETE_NEW = ["DELETE FROM shop.customers WHERE id = {i}", "DELETE FROM shop.profiles WHERE customer = {i}"]
NAME_OLD = OLD_NAME.replace("1", "{i}")
NAME_NEW = NEW_NAME.replace("1", "{i}")
NOTE_OLD = "SELECT body FROM notes WHERE id = {}"
NOTE_NEW = "SELECT body FROM shop.notes WHERE id = {}"

# {i} is the number of the case, and of the rows that it is about.
CASES: dict[str, tuple[list[tuple[str, list[str]]], str, str, Any]] = {
    "update old, update new": ([("old", PERSON_OLD), ("new", PERSON_NEW)], NAME_OLD, NAME_NEW, "new"),
    "update new, update old": ([("new", PERSON_NEW), ("old", PERSON_OLD)], NAME_OLD, NAME_NEW, "old"),
    "update old, delete new": ([("old", PERSON_OLD), ("new", DELETE_NEW)], NAME_OLD, NAME_NEW, None),
    "update new, delete old": ([("new", PERSON_NEW), ("old", DELETE_OLD)], NAME_OLD, NAME_NEW, None),
    "note: delete old, update new": (
        [("old", ["DELETE FROM notes WHERE id = {i}"]), ("new", ["UPDATE shop.notes SET body = 'new' WHERE id = {i}"])],
        NOTE_OLD.format("{i}"), NOTE_NEW.format("{i}"), "new",
    ),
    "note: delete new, update old": (
        [("new", ["DELETE FROM shop.notes WHERE id = {i}"]), ("old", ["UPDATE notes SET body = 'old' WHERE id = {i}"])],
        NOTE_OLD.format("{i}"), NOTE_NEW.format("{i}"), "old",
    ),
    "note: insert old, insert new": (
        [("old", ["INSERT INTO notes VALUES (5{i}, 'c5{i}', 'old')"]),
         ("new", ["INSERT INTO shop.notes VALUES ('c5{i}', 5{i}, 'new')"])],
        NOTE_OLD.format("5{i}"), NOTE_NEW.format("5{i}"), "new",
    ),
    "note: insert new, insert old": (
        [("new", ["INSERT INTO shop.notes VALUES ('c5{i}', 5{i}, 'new')"]),
         ("old", ["INSERT INTO notes VALUES (5{i}, 'c5{i}', 'old')"])],
        NOTE_OLD.format("5{i}"), NOTE_NEW.format("5{i}"), "old",
    ),
    "note: update old, delete new": (
        [("old", ["UPDATE notes SET body = 'old' WHERE id = {i}"]), ("new", ["DELETE FROM shop.notes WHERE id = {i}"])],
        NOTE_OLD.format("{i}"), NOTE_NEW.format("{i}"), None,
    ),
    "note: update new, delete old": (
        [("new", ["UPDATE shop.notes SET body = 'new' WHERE id = {i}"]), ("old", ["DELETE FROM notes WHERE id = {i}"])],
        NOTE_OLD.format("{i}"), NOTE_NEW.format("{i}"), None,
    ),
    "several rows: the person here, the address there": (
        [("old", ["UPDATE addresses SET street = 'old' WHERE person = {i}"]), ("new", PERSON_NEW)],
        "SELECT name || (SELECT street FROM addresses WHERE person = {i}) FROM people WHERE id = {i}",
        "SELECT name || (addresses->>'home') FROM shop.customers WHERE id = {i}", "newstreet {i}",
    ),
    "several rows: part of it only": (
        [("old", ["UPDATE people SET name = 'old', bio = 'old' WHERE id = {i}"]), ("new", PERSON_NEW)],
        "SELECT name || bio FROM people WHERE id = {i}",
        "SELECT name || bio FROM shop.customers JOIN shop.profiles ON customer = id WHERE id = {i}", "newold",
    ),
    "several rows: a part is left of what was deleted": (
        [("old", DELETE_OLD), ("new", ["UPDATE shop.profiles SET bio = 'new' WHERE customer = {i}"])],
        "SELECT bio FROM people WHERE id = {i}", "SELECT bio FROM shop.profiles WHERE customer = {i}", ANY,
    ),
    "several rows: an address of a person who was deleted": (
        [("new", DELETE_NEW), ("old", ["UPDATE addresses SET street = 'old' WHERE person = {i}"])],
        "SELECT street FROM addresses WHERE person = {i}", "SELECT name FROM shop.customers WHERE id = {i}", ANY,
    ),
    "several rows: a part was added to what was deleted": (
        [("new", ['UPDATE shop.customers SET addresses = \'{"work": "new"}\' WHERE id = {i}']), ("old", DELETE_OLD)],
        "SELECT street FROM addresses WHERE person = {i}", NAME_NEW, None,
    ),
    "emptied": (
        [("new", ["UPDATE shop.notes SET body = 'new' WHERE id = {i}"]), ("old", ["TRUNCATE notes"]),
         ("new", ["INSERT INTO shop.notes VALUES ('c5{i}', 5{i}, 'new')"])],
        "SELECT string_agg(code, ' ') FROM notes", "SELECT string_agg(code, ' ') FROM shop.notes", "c5{i}",
    ),
}  # fmt: skip


@pytest.mark.one_server
@pytest.mark.parametrize("first", FIRST)
async def test_who_wrote_last_wins(database: Database, tmp_path: Path, first: Direction | None) -> None:
    """Every case, one after the other, each on rows of its own."""
    create_old(database.dsn)
    sides = (database, database)
    async with rolling(make_settings(database), two_ways(tmp_path)) as running:
        await running.open()
        wrong: dict[str, Any] = {}
        for number, (name, (writes, old, new, expected)) in enumerate(CASES.items(), start=1):

            def mine(text: Any, number: int = number) -> Any:
                return text.replace("{i}", str(number)) if isinstance(text, str) else text

            before = sum(running.conflicts().values())
            await collide(running, sides, [(side, list(map(mine, each))) for side, each in writes], first)
            found = one(database.dsn, mine(old)), one(database.dsn, mine(new))
            counted, unequal = sum(running.conflicts().values()) - before, await running.unequal()
            if unequal or not counted or (expected != ANY and found != (mine(expected), mine(expected))):
                wrong[name] = (found, counted, unequal)
        assert wrong == {}


REWRITE = "ALTER TABLE {} ALTER COLUMN body TYPE text USING body || ''"
CHANGE_OLD, CHANGE_NEW = "UPDATE notes SET body = 'old'{}", "UPDATE shop.notes SET body = 'new'{}"


@pytest.mark.one_server
@pytest.mark.parametrize("first", FIRST)
async def test_a_table_that_is_written_anew_wins_against_nobody(
    database: Database, tmp_path: Path, first: Direction | None
) -> None:
    """A rewrite dates every row: who wrote last, it does not tell."""
    create_old(database.dsn)
    sides = (database, database)
    rewrite_old = ("old", [REWRITE.format("notes"), "GRANT SELECT ON notes TO PUBLIC"])
    rewrite_new = ("new", [REWRITE.format("shop.notes")])
    cases: dict[str, tuple[list[tuple[str, list[str]]], str | None]] = {
        "new, then anew": ([("new", [CHANGE_NEW]), rewrite_old], "new"),
        "old, then anew": ([("old", [CHANGE_OLD]), rewrite_new], "old"),
        "new, old, then anew": ([("new", [CHANGE_NEW]), ("old", [CHANGE_OLD]), rewrite_old], "old"),
        "old, new, then anew": ([("old", [CHANGE_OLD]), ("new", [CHANGE_NEW]), rewrite_new], "new"),
        "old, new, the other one anew": ([("old", [CHANGE_OLD]), ("new", [CHANGE_NEW]), rewrite_old], "new"),
        "new, anew, then old": ([("new", [CHANGE_NEW]), rewrite_old, ("old", [CHANGE_OLD])], "old"),
        "gone, then anew": ([("new", ["DELETE FROM shop.notes{}"]), rewrite_old], None),
    }
    async with rolling(make_settings(database), two_ways(tmp_path)) as running:
        await running.open()
        wrong: dict[str, Any] = {}
        for number, (name, (writes, expected)) in enumerate(cases.items(), start=1):
            where = f" WHERE id = {number}"
            await collide(
                running, sides, [(side, [each.format(where) for each in todo]) for side, todo in writes], first
            )
            found = tuple(one(database.dsn, f"SELECT body FROM {table}{where}") for table in ("notes", "shop.notes"))
            if found != (expected, expected) or await running.unequal():
                wrong[name] = (found, await running.unequal())
        assert wrong == {}


async def test_what_comes_over_and_is_changed_at_once_is_remembered(
    sides: tuple[Database, Database], tmp_path: Path
) -> None:
    """One batch of the reverse stream: what the forward pipeline wrote, and the application's next version of it."""
    old, new = sides
    async with rolling(make_settings(old, new), two_ways(tmp_path)) as running:
        await running.open()
        async with running.paused("reverse"):
            reverse = running.pipeline("reverse")
            await reverse.nudge("a batch by itself, which waits for its turn")
            position = await reverse.monitor.position()
            # it waits, or what was there before it, and it is with what comes after
            await running.until(lambda: reverse.received >= position and bool(reverse.context.rw_lock._queue))
            execute(
                old.dsn,
                [
                    "INSERT INTO addresses VALUES (1, 'work', 'old'), (2, 'work', 'old')",
                    "UPDATE notes SET code = 'changed' WHERE id = 3",
                ],
            )
            await running.pipeline("forward").catch_up()
            execute(
                new.dsn,
                [
                    "UPDATE shop.customers SET addresses = addresses - 'work' WHERE id = 1",
                    "DELETE FROM shop.customers WHERE id = 2",
                    "DELETE FROM shop.profiles WHERE customer = 2",
                    "UPDATE shop.notes SET id = 30 WHERE code = 'changed'",
                ],
            )
        await running.quiet()
        assert await running.unequal() == []
        assert one(old.dsn, "SELECT count(*) FROM addresses WHERE kind = 'work'") == 0
        assert one(old.dsn, "SELECT string_agg(id::text, ' ') FROM notes WHERE code = 'changed'") == "30"


# ---- a campaign

SECONDS = float(os.environ.get("REPLICATOR_TEST_ROLLING_SECONDS", "3"))
"""How long both sides write."""
SEED = os.environ.get("REPLICATOR_TEST_SEED", str(random.randrange(10**6)))
"""Of what they write; which writes meet is left to the servers."""
HOT = 8

OLD_WRITES = (
    ["INSERT INTO people VALUES ({i}, '{v}', '{v}') ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name"],
    ["UPDATE people SET bio = '{v}' WHERE id = {i}"],
    ["UPDATE people SET name = '{v}', bio = '{v}' WHERE id IN ({i}, {j})"],
    [
        "SELECT FROM people WHERE id = {i} FOR UPDATE",
        "INSERT INTO addresses SELECT id, 'work', '{v}' FROM people WHERE id = {i} "
        "ON CONFLICT (person, kind) DO UPDATE SET street = EXCLUDED.street",
    ],
    ["SELECT FROM people WHERE id = {i} FOR UPDATE", "DELETE FROM addresses WHERE person = {i} AND kind = 'work'"],
    ["DELETE FROM people WHERE id = {i}", "DELETE FROM addresses WHERE person = {i}"],
    ["INSERT INTO notes VALUES ({i}, 'c{i}', '{v}') ON CONFLICT (id) DO UPDATE SET body = EXCLUDED.body"],
    ["DELETE FROM notes WHERE id = {i}"],
)
NEW_WRITES = (
    [
        "INSERT INTO shop.customers VALUES ({i}, '{v}', '{{}}') ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name",
        "INSERT INTO shop.profiles VALUES ({i}, '{v}') ON CONFLICT (customer) DO NOTHING",
    ],
    ["UPDATE shop.profiles SET bio = '{v}' WHERE customer = {i}"],
    ["UPDATE shop.customers SET name = '{v}' WHERE id IN ({i}, {j})"],
    ['UPDATE shop.customers SET addresses = addresses || \'{{"work": "{v}"}}\' WHERE id = {i}'],
    ["UPDATE shop.customers SET addresses = addresses - 'work' WHERE id = {i}"],
    ["DELETE FROM shop.customers WHERE id = {i}", "DELETE FROM shop.profiles WHERE customer = {i}"],
    ["INSERT INTO shop.notes VALUES ('c{i}', {i}, '{v}') ON CONFLICT (code) DO UPDATE SET body = EXCLUDED.body"],
    ["DELETE FROM shop.notes WHERE id = {i}"],
)


def write_for_a_while(dsn: str, side: str, seed: str, until: float) -> int:
    """Write at random to few rows; gives how many transactions were committed."""
    chance, done = random.Random(seed), 0
    with psycopg.connect(dsn) as application:
        while time.monotonic() < until:
            writes = chance.choice(OLD_WRITES if side == "old" else NEW_WRITES)
            numbers = {"i": chance.randint(1, HOT), "j": chance.randint(1, HOT), "v": f"{seed} {done}"}
            try:
                for statement in writes:
                    application.execute(statement.format(**numbers).encode())
                application.commit()
                done += 1
            except psycopg.errors.DeadlockDetected:
                application.rollback()
            time.sleep(chance.random() * 0.01)
    return done


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed"])
async def test_both_sides_are_equal_when_the_writes_stop(
    sides: tuple[Database, Database], tmp_path: Path, killed: bool
) -> None:
    old, new = sides
    logging.getLogger(__name__).info("REPLICATOR_TEST_SEED=%s", SEED)
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(rolling(make_settings(old, new), two_ways(tmp_path)))
        await running.open()
        until = time.monotonic() + SECONDS
        writers = [
            asyncio.create_task(asyncio.to_thread(write_for_a_while, side.dsn, name, f"{SEED} {name} {number}", until))
            for number in range(2)
            for side, name in ((old, "old"), (new, "new"))
        ]
        if killed:
            await asyncio.sleep(SECONDS / 2)
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
            running = await stack.enter_async_context(rolling(running.settings, running.migration))
            await running.until(running.session.up.is_set)
            assert running.session.phase.now == Phase.ROLLING
        transactions = sum(await asyncio.gather(*writers))
        await running.quiet()
        quarantined = [each.context.quarantined for each in running.session.pipelines]
        assert (await running.unequal(), quarantined) == ([], [set(), set()])
        conflicts = sum(running.conflicts().values())
        logging.getLogger(__name__).info("%s transactions, %s conflicts in %s s", transactions, conflicts, SECONDS)
        assert conflicts > 0
        await running.complete()
        await running.clean()


# ---- what it needs


async def test_a_server_that_does_not_remember_commit_times_is_refused(make_cluster: MakeCluster) -> None:
    settings = Settings(_env_file=None, source_dsn=make_cluster(track_commit_timestamp="off").dsn())
    with pytest.raises(CheckError, match="track_commit_timestamp is off") as refusal:
        await check_rolling(settings, {"old": [], "new": []})
    assert "ALTER SYSTEM SET track_commit_timestamp = on;" in refusal.value.remedy


async def test_a_role_without_the_right_and_a_trigger_in_the_way_are_refused(
    database: Database, tmp_path: Path
) -> None:
    create_old(database.dsn)
    await Engine(make_settings(database), two_ways(tmp_path)).make_tables()
    role = f"r_{database.name}"
    execute(database.dsn, [f"CREATE ROLE {role} LOGIN"])
    try:
        weak = psycopg.conninfo.make_conninfo(database.dsn, user=role)
        with pytest.raises(CheckError, match="must not use replication origins") as refusal:
            await check_rolling(Settings(_env_file=None, source_dsn=weak), {"old": [], "new": []})
        execute(database.dsn, [each for each in refusal.value.remedy.split(";") if each.strip()])
        await check_rolling(Settings(_env_file=None, source_dsn=weak), {"old": [], "new": []})
        execute(
            database.dsn,
            [
                "CREATE TRIGGER mine BEFORE UPDATE ON people FOR EACH ROW "
                "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
            ],
        )
        with pytest.raises(CheckError, match=r"mine on public\.people"):
            await check_rolling(make_settings(database), {"old": [Name(schema="public", table="people")], "new": []})
    finally:
        execute(database.dsn, [f"DROP OWNED BY {role}", f"DROP ROLE {role}"])


async def test_transforms_whose_rows_would_be_lost_sight_of_are_refused(database: Database) -> None:
    """A query without key=: what it gave when the opposite pipeline had written is not known any more."""
    create_old_tables(database.dsn)
    settings = make_settings(database)
    await Engine(settings, reference()).make_tables()
    plans = [await read_plan(settings, reference(), direction) for direction in ("forward", "reverse")]
    with pytest.raises(CheckError, match="left behind while both sides write: spotify_token"):
        await check_rolling(settings, {"old": [], "new": []}, plans)


@pytest.mark.one_server
async def test_nothing_else_is_done_meanwhile(database: Database, tmp_path: Path) -> None:
    """No repair, no giving up of the migration; and a rehearsal of either move changes nothing."""
    create_old(database.dsn)
    settings = make_settings(database)
    async with rolling(settings, two_ways(tmp_path)) as running:
        await running.ready()
        assert (await running.session.switchovers.run(OPENING, running.report, dry_run=True)).dry_run
        assert refused(database.dsn, "UPDATE shop.customers SET name = 'x'")
        await running.clean()
        await running.open()
        for move in (COMPLETION, CLOSING):
            assert (await running.session.switchovers.run(move, running.report, dry_run=True)).dry_run
            assert running.session.phase.now == Phase.ROLLING
        with pytest.raises(NotReadyError, match="Nothing is repaired"):
            await repair(running.pipeline("forward"), [], "test")
        with pytest.raises(NotReadyError, match="Both schemas take writes"):
            await abort(settings, running.migration, running.report)
        execute(database.dsn, ["UPDATE people SET name = 'old'", "UPDATE shop.profiles SET bio = 'new'"])
        await running.quiet()
        assert await running.unequal() == []


@pytest.mark.one_server
@pytest.mark.parametrize("move", [COMPLETION, CLOSING])
async def test_a_daemon_that_died_after_the_commit_decides_what_is_left(
    database: Database, tmp_path: Path, move: Transition
) -> None:
    create_old(database.dsn)
    async with rolling(make_settings(database), two_ways(tmp_path)) as running:
        await running.open()
        async with running.paused("reverse" if move is COMPLETION else "forward"):
            execute(database.dsn, ["UPDATE people SET name = 'old' WHERE id = 1"])
            execute(database.dsn, ["UPDATE shop.customers SET name = 'new' WHERE id = 1"])
            with killed_at(Failpoint.ACTIVATED), pytest.raises(KilledError):
                await running.session.switchovers.run(move, running.report)
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
    async with rolling(running.settings, running.migration) as running:
        await running.until(running.session.up.is_set)
        assert running.session.phase.now == move.after
        await running.clean()
        assert await running.unequal() == []
        assert one(database.dsn, OLD_NAME) == one(database.dsn, NEW_NAME) == "new"
        assert one(database.dsn, "SELECT count(*) FROM _replicator.redo") == 0
