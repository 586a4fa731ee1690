"""``cutover --strategy rename``: the new tables take the old ones' place, and give it back."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration
from replicator.core.tables import Name
from replicator.errors import CheckError, CutoverError, NotReadyError, UsageError
from replicator.follow.transaction_buffer import Batch
from replicator.migration import Direction
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.catalog.catalog import live_rows
from replicator.postgres.ddl.renames import reads
from replicator.postgres.session.connect import connection
from replicator.preflight import preflight
from replicator.preflight.hanging import Strategy
from replicator.runbook import schema
from replicator.runbook.cleanup import plan
from replicator.runbook.dry_run import dry_run
from replicator.runbook.finish import finalize
from replicator.runbook.smoke import smoke
from replicator.runtime.failpoints import Failpoint, handled
from replicator.settings import Settings
from replicator.switchover.phases import CUTOVER, OPENING, Phase
from replicator.switchover.renaming import Renaming, RenamingStrategy
from replicator.switchover.request import Attempt
from replicator.switchover.strategy import SwitchoverStrategy
from tests.deaths import KilledError, killed_at
from tests.engine import Engine, differences, execute, make_settings
from tests.fix_postgres import Database
from tests.same_names import create_old, same_names
from tests.sessions import Running, daemon, silent
from tests.statements import NAMES, one, refused

pytestmark = pytest.mark.one_server


NUMBERS = itertools.count()


class Application:
    """Writes without a pause, and never names a schema; every statement must succeed."""

    def __init__(self, dsn: str, number: int) -> None:
        self.written: dict[str, str] = {}
        self.turns = 0
        self.failed: list[str] = []
        self._dsn, self._number = dsn, number
        self._stop = threading.Event()

    def run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as opened:
                while not self._stop.is_set():
                    self._write(opened, self.turns)
                    self.turns += 1
                    self._stop.wait(0.02)
        except psycopg.Error as error:
            self.failed.append(str(error))

    def _write(self, opened: psycopg.Connection[Any], turn: int) -> None:
        code, person = f"w{self._number}-{turn}", turn % 5 + 1
        opened.execute("INSERT INTO notes (code, body) VALUES (%s, %s)", (code, "first"))
        self.written[code] = "first"
        with opened.transaction():  # one that reads, and then writes
            opened.execute("SELECT count(*) FROM notes").fetchone()
            opened.execute("SELECT name FROM people WHERE id = %s", (person,)).fetchone()
            opened.execute("UPDATE notes SET body = 'second' WHERE code = %s", (code,))
            opened.execute("UPDATE people SET bio = %s WHERE id = %s", (code, person))
        self.written[code] = "second"
        if turn % 3 == 0:
            opened.execute("DELETE FROM notes WHERE code = %s", (code,))
            del self.written[code]
        if turn % 4 == 0:
            opened.execute("INSERT INTO people (name) VALUES (%s)", (code,))

    def stop(self) -> None:
        self._stop.set()


@contextlib.asynccontextmanager
async def applications(dsn: str, count: int = 2) -> AsyncIterator[list[Application]]:
    written = [Application(dsn, next(NUMBERS)) for _ in range(count)]
    tasks = [asyncio.create_task(asyncio.to_thread(each.run)) for each in written]
    try:
        yield written
    finally:
        for each in written:
            each.stop()
        await asyncio.gather(*tasks)


@pytest.fixture
def migration(database: Database, tmp_path: Path) -> Migration:
    create_old(database.dsn)
    return same_names(tmp_path)


async def equal(running: Running, migration: Migration) -> None:
    """What either side gives, the other holds."""
    pipeline = running.active
    assert pipeline is not None
    await pipeline.wait_started()
    marker = f"equal {id(object())}"
    await pipeline.nudge(marker)
    await asyncio.wait_for(pipeline.wait_message(marker), 60)
    directions: tuple[Direction, Direction] = ("forward", "reverse")
    for direction in directions:
        made = Engine(running.settings, migration, direction)
        assert (direction, await differences(made)) == (direction, [])


@pytest.mark.two_servers
async def test_there_and_back_and_there_again(database: Database, migration: Migration) -> None:
    """An application goes on all the time, and notices nothing; every name comes back as it was."""
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        async with applications(database.dsn) as writers:
            names = one(database.dsn, NAMES)
            for turn in range(2):
                result = await running.cut_over(strategy="rename")
                assert (result.epoch, result.dependents) == (2 * turn + 1, ())
                assert running.session.phase.now == Phase.SOAK
                assert one(database.dsn, "SELECT replicator.active_schema()") == "public"
                assert one(database.dsn, "SELECT replicator.use_new_schema()") is True
                assert one(database.dsn, "SELECT to_regclass('shop.people') IS NULL") is True
                for gone in ("people_old", "carts_old"):
                    assert refused(database.dsn, f"DELETE FROM {gone}")
                execute(database.dsn, ['UPDATE people SET addresses = \'{"work": "here"}\' WHERE id = 7'])
                await more(running, writers)
                await running.clean()
                assert one(database.dsn, "SELECT street FROM addresses_old WHERE person = 7") == "here"
                assert (await running.roll_back()).epoch == 2 * turn + 2
                assert one(database.dsn, NAMES) == names
                assert one(database.dsn, "SELECT replicator.use_new_schema()") is False
                assert refused(database.dsn, "DELETE FROM shop.people")
                execute(database.dsn, ["DELETE FROM addresses WHERE person = 7", "DELETE FROM carts"])
                await more(running, writers)
                await running.clean()
            await running.cut_over()  # the other way, after all
            assert one(database.dsn, "SELECT replicator.active_schema()") == "shop"
            await running.until(lambda: len(refusals(writers)) == len(writers))
        assert all("the schema in use is shop" in each for each in refusals(writers))
        written = {code: body for each in writers for code, body in each.written.items()}
        assert held(database.dsn, "shop.notes") == written
        await equal(running, migration)


def refusals(writers: list[Application]) -> list[str]:
    return [failure for each in writers for failure in each.failed]


async def more(running: Running, writers: list[Application]) -> None:
    """Wait until the applications have done some more."""
    done = sum(each.turns for each in writers)
    await running.until(lambda: refusals(writers) or sum(each.turns for each in writers) > done + 20)
    assert refusals(writers) == []


def held(dsn: str, table: str) -> dict[str, str]:
    with psycopg.connect(dsn) as opened:
        return dict(opened.execute(f"SELECT code, body FROM {table} WHERE code LIKE 'w%'".encode()).fetchall())


async def failing(settings: Settings, migration: Migration) -> dict[str, str]:
    return {each.check: each.detail for each in await preflight(settings, migration) if each.outcome == "fail"}


async def nothing(*_: object) -> None:
    return


CRASHES = {
    Failpoint.CUTOVER_DRAINED: False,
    Failpoint.CUTOVER_COMMITTING: False,
    Failpoint.CUTOVER_COMMITTED: True,
    Failpoint.RETIRING: True,
}
"""Where the daemon dies, and whether the commit has happened by then."""


BACK = (Failpoint.CUTOVER_COMMITTING, Failpoint.CUTOVER_COMMITTED)


@pytest.mark.parametrize(
    ("move", "point"), [*(("cutover", each) for each in CRASHES), *(("rollback", each) for each in BACK)]
)
async def test_a_daemon_that_died(database: Database, migration: Migration, move: str, point: Failpoint) -> None:
    """One owner, one set of names; and the next daemon goes on from there."""
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        names = one(database.dsn, NAMES)
        if move == "rollback":
            await running.cut_over(strategy="rename")
            await running.clean()
        with killed_at(point), pytest.raises(KilledError):
            await (running.cut_over(strategy="rename") if move == "cutover" else running.roll_back())
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
    renamed = CRASHES[point] == (move == "cutover")
    assert (one(database.dsn, NAMES) == names) is not renamed
    assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == ("new" if renamed else "old")
    changes = ["UPDATE notes SET body = 'meanwhile' WHERE code = 'c1'", "DELETE FROM notes WHERE code = 'c2'"]
    execute(database.dsn, changes)
    assert await failing(make_settings(database), migration) == {}
    async with daemon(make_settings(database), migration) as running:
        await running.until(running.session.up.is_set)
        assert running.session.phase.now == (Phase.SOAK if renamed else Phase.FOLLOW)
        other = "notes_old" if renamed else "shop.notes"
        await running.until(lambda: one(database.dsn, f"SELECT body FROM {other} WHERE code = 'c1'") == "meanwhile")
        await running.until(lambda: one(database.dsn, f"SELECT body FROM {other} WHERE code = 'c2'") is None)
        await running.clean()
        await equal(running, migration)


async def test_readers_hold_it_up_and_nobody_else(
    database: Database, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.switchover.attempts.ATTEMPTS", 2)
    monkeypatch.setattr("replicator.switchover.cutover.LOCK_SECONDS", 0.05)
    monkeypatch.setattr("replicator.switchover.attempts.BACKOFF_SECONDS", 0.05)
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        for table in ("people", "shop.people"):
            with psycopg.connect(database.dsn) as reader:
                reader.execute(f"SELECT count(*) FROM {table}".encode())
                async with applications(database.dsn) as writers:
                    with pytest.raises(CutoverError, match="2 attempts"):
                        await running.cut_over(strategy="rename")
                    await more(running, writers)
                assert running.session.phase.now == Phase.FOLLOW
                assert one(database.dsn, "SELECT count(*) FROM _replicator.renames") == 0
        monkeypatch.undo()
        await running.clean()
        await running.cut_over(strategy="rename")
        await equal(running, migration)


WAITING = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
    AND application_name NOT LIKE 'replicator%'
"""


async def test_one_that_reads_and_then_writes_holds_nothing_up(database: Database, migration: Migration) -> None:
    """It comes while the cutover holds the tables: let it read, and it would wait with the lock of a reader."""
    work = list[asyncio.Task[None]]()

    def read_and_write() -> None:
        execute(database.dsn, ["SELECT FROM notes", "UPDATE notes SET body = 'after' WHERE code = 'c1'"])

    async with daemon(make_settings(database), migration) as running:
        await running.ready()

        async def come() -> None:
            work.append(asyncio.create_task(asyncio.to_thread(read_and_write)))
            await running.until(lambda: one(database.dsn, WAITING) == 1)

        with handled(Failpoint.CUTOVER_LOCKED, come):
            assert (await running.cut_over(strategy="rename")).attempts == 1
        await asyncio.gather(*work)
        assert one(database.dsn, "SELECT body FROM notes WHERE code = 'c1'") == "after"
        await running.until(lambda: one(database.dsn, "SELECT body FROM notes_old WHERE code = 'c1'") == "after")


@pytest.mark.parametrize("strategy", ["schema", "rename"])
async def test_the_way_back_knows_all_before_the_move(
    database: Database, migration: Migration, monkeypatch: pytest.MonkeyPatch, strategy: Strategy
) -> None:
    """What it would read again later may be gone by then."""
    kind = RenamingStrategy if strategy == "rename" else SwitchoverStrategy
    apply, hold = Pipeline._apply, kind.hold
    known: list[int] = []

    async def apply_slowly(self: Pipeline, piece: Batch) -> None:
        await asyncio.sleep(0.3 if self.direction == "reverse" else 0)
        await apply(self, piece)

    async def write_and_hold(self: Any, attempt: Attempt, tables: Sequence[Name]) -> None:
        execute(database.dsn, ["INSERT INTO notes (code, body) VALUES ('last', '')"])
        await hold(self, attempt, tables)

    async def look() -> None:
        memory = "SELECT count(*) FROM _replicator.produced WHERE pipeline = 'reverse' AND source_key = '[\"last\"]'"
        known.append(one(database.dsn, memory))

    monkeypatch.setattr(Pipeline, "_apply", apply_slowly)
    monkeypatch.setattr(kind, "hold", write_and_hold)
    new, old = ("public.notes", "notes_old") if strategy == "rename" else ("shop.notes", "public.notes")
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        with handled(Failpoint.CUTOVER_COMMITTING, look):
            await running.cut_over(strategy=strategy)
        assert known == [1]
        execute(database.dsn, [f"DELETE FROM {new} WHERE code = 'last'"])
        await running.until(lambda: one(database.dsn, f"SELECT count(*) FROM {old} WHERE code = 'last'") == 0)


async def test_over_the_pause_all_is_as_before(database: Database, migration: Migration) -> None:
    """While the pipeline reads through the transaction that is given up."""
    async with daemon(make_settings(database, max_write_pause=2), migration) as running:
        await running.ready()
        async with applications(database.dsn) as writers:
            with (
                handled(Failpoint.CUTOVER_LOCKED, asyncio.Event().wait),
                pytest.raises(CutoverError, match="longer than 2 s"),
            ):
                await running.cut_over(strategy="rename")
            assert running.session.phase.now == Phase.FOLLOW
            await more(running, writers)
            await running.clean()
            await running.cut_over(strategy="rename")
            await more(running, writers)
        await equal(running, migration)


async def test_a_rehearsal_leaves_all_as_it_was(database: Database, migration: Migration) -> None:
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        execute(database.dsn, ["CREATE VIEW names AS SELECT name FROM people"])
        names = one(database.dsn, NAMES)
        rehearsed = await running.cut_over(strategy="rename", dry_run=True)
        assert rehearsed.dry_run
        assert rehearsed.dependents == ("view public.names",)
        assert one(database.dsn, NAMES) == names
        await running.clean()
        assert (await running.cut_over(strategy="rename")).dependents == ("view public.names",)
        await running.clean()
        names = one(database.dsn, NAMES)
        assert (await running.roll_back(dry_run=True)).dry_run
        assert one(database.dsn, NAMES) == names
        execute(database.dsn, ["UPDATE people SET name = 'after' WHERE id = 1"])
        await running.until(lambda: one(database.dsn, "SELECT name FROM people_old WHERE id = 1") == "after")
        await running.clean()
        await running.roll_back()
        await running.clean()


async def test_all_else_knows_the_names(database: Database, migration: Migration) -> None:
    settings = make_settings(database)
    probes = migration.folder() / "probes" / "new"
    probes.mkdir(parents=True)
    (probes / "names.sql").write_text("SELECT name FROM shop.people")
    async with daemon(settings, migration) as running:
        await running.ready()
        await running.cut_over(strategy="rename")
        await running.clean()
        findings = await smoke(settings, migration, lambda _: None)
        assert {each.check: each.detail for each in findings if each.outcome == "fail"} == {}
        assert await failing(settings, migration) == {}
        with pytest.raises(NotReadyError, match="renamed the tables"):
            await schema.build(settings, migration, ["tables"])
        with pytest.raises(NotReadyError, match="renamed the tables"):
            await dry_run(settings, migration, None, lambda *_: None)
        async with connection(database.dsn, "test") as asking:
            assert (await live_rows(asking, "public")).keys() == {"people", "addresses", "notes", "carts"}
            assert (await live_rows(asking, "shop")).keys() == {"people", "notes"}
    await finalize(settings, migration, silent, now=True)
    assert one(database.dsn, "SELECT replicator.active_schema()") == "public"
    execute(database.dsn, ["INSERT INTO notes (code, body) VALUES ('free', 'again')", "DELETE FROM people_old"])
    going = {str(each) for each in (await plan(settings, migration)).tables}
    assert going == {"public.people_old", "public.addresses_old", "public.notes_old", "public.carts_old"}


IN_A_STRING = (
    "SELECT id, name, bio, '{}' AS addresses FROM public.people WHERE 'public.addresses'::regclass IS NOT NULL"
)

REFUSED: dict[str, tuple[list[str], str]] = {
    "the old name": (
        ["CREATE VIEW people_old AS SELECT 1 AS id"],
        "public.people cannot be renamed: people_old is taken",
    ),
    "a new table's index": (
        ["CREATE SEQUENCE fresh", "CREATE INDEX fresh ON shop.notes (body)"],
        "The schema public has something else of these names already: fresh",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_renamed(database: Database, migration: Migration, case: str) -> None:
    statements, problem = REFUSED[case]
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        execute(database.dsn, statements)
        with pytest.raises(CheckError, match=problem):
            await running.cut_over(strategy="rename")
        assert running.session.phase.now == Phase.FOLLOW


async def test_a_query_that_would_read_another_table(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_old(database.dsn)
    problem = r"The query query \(forward\) does not name these tables with their schema: public.addresses"
    async with daemon(make_settings(database), same_names(tmp_path, people=IN_A_STRING)) as running:
        await running.until(lambda: running.session.phase.now == Phase.FOLLOW)
        with pytest.raises(CheckError, match=problem):
            await running.cut_over(strategy="rename")
        monkeypatch.setattr(Renaming, "check", nothing)
        with pytest.raises(NotReadyError, match=r"would read other tables|cannot be followed"):
            await running.cut_over(strategy="rename")
        assert running.session.phase.now == Phase.FOLLOW
        assert one(database.dsn, "SELECT to_regclass('people_old') IS NULL") is True


async def test_what_a_lookup_of_several_keys_reads(database: Database, migration: Migration) -> None:
    """Its columns may have one name twice; a comment may end it."""
    del migration
    async with connection(database.dsn, "test") as asking:
        found = await reads(
            asking, "SELECT p.id, a.person AS id FROM public.people AS p, public.addresses AS a -- both"
        )
    assert {one(database.dsn, f"SELECT {oid}::regclass::text") for oid in found} == {"people", "addresses"}


async def test_it_wants_one_database_and_one_owner(
    database: Database, other_database: Database, migration: Migration
) -> None:
    async with daemon(make_settings(database, other_database), migration) as running:
        await running.ready()
        with pytest.raises(CheckError, match="in one database only"):
            await running.cut_over(strategy="rename")
        with pytest.raises(UsageError, match="exclude each other"):
            await running.session.switchovers.run(OPENING, running.report, strategy="rename")
        assert running.session.phase.now == Phase.FOLLOW
        await running.cut_over()


async def test_the_right_to_move_tables_is_asked_for(database: Database, migration: Migration) -> None:
    role = f"r_{database.name}"
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        execute(database.dsn, [f"CREATE ROLE {role} LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"])
        try:
            async with connection(psycopg.conninfo.make_conninfo(database.dsn, user=role), "test") as weak:
                with pytest.raises(CheckError, match="cannot be renamed") as found:
                    await Renaming(migration, CUTOVER, {"old": [], "new": []}, asyncio.Lock()).check(weak)
            assert f"GRANT CREATE ON SCHEMA public TO {role};" in found.value.remedy
        finally:
            execute(database.dsn, [f"DROP OWNED BY {role}", f"DROP ROLE {role}"])
