"""The rollback: the cutover backwards, as often as one likes; and the cutover that is only rehearsed."""

import asyncio
from pathlib import Path

import pytest

from replicator.errors import NotReadyError
from replicator.postgres.ddl.search_path import moved
from replicator.runtime.failpoints import Failpoint
from replicator.switchover.phases import Phase
from tests.deaths import KilledError, killed_at
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.reference import seed
from tests.sessions import daemon
from tests.small import create_small, small_migration
from tests.statements import one, refused

pytestmark = pytest.mark.two_servers

SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"


@pytest.mark.every_server
async def test_there_and_back_and_there_again(database: Database) -> None:
    """Writes in either schema survive; each side refuses writes while the other one owns the data."""
    seed(database.dsn)
    async with daemon(make_settings(database)) as running:
        await running.ready()
        for turn in range(2):
            await running.cut_over()
            assert refused(database.dsn, "UPDATE requests SET status = 'played'")
            execute(
                database.dsn,
                [
                    f"UPDATE party.requests SET status = 'rejected' WHERE legacy->>'id' = 'r{turn + 1}'",
                    f"DELETE FROM party.requests WHERE legacy->>'id' = 'r{turn + 10}'",
                    "INSERT INTO party.admins (id, email, password_hash, created_at) "
                    f"VALUES ('00000000-0000-0000-0000-00000000000{turn}', 'new{turn}@example.org', 'h', now())",
                ],
            )
            await running.clean()
            result = await running.roll_back()
            assert result.epoch == 2 * turn + 2
            assert running.session.phase.now == Phase.FOLLOW
            assert one(database.dsn, "SELECT replicator.active_schema()") == "public"
            assert refused(database.dsn, "UPDATE party.requests SET status = 'played'")
            assert refused(database.dsn, "DELETE FROM party.admins")
            assert one(database.dsn, f"SELECT status FROM requests WHERE id = 'r{turn + 1}'") == "rejected"
            assert one(database.dsn, f"SELECT count(*) FROM requests WHERE id = 'r{turn + 10}'") == 0
            assert one(database.dsn, f"SELECT count(*) FROM admins WHERE username = 'new{turn}@example.org'") == 1
            execute(
                database.dsn,
                [
                    f"UPDATE requests SET status = 'played' WHERE id = 'r{turn + 20}'",
                    f"DELETE FROM requests WHERE id = 'r{turn + 30}'",
                    f"DELETE FROM admins WHERE username = 'new{turn}@example.org'",
                    "DELETE FROM notifications",
                    "DELETE FROM oauth_sessions",
                ],
            )
            await running.until(
                lambda turn=turn: (
                    one(database.dsn, f"SELECT status FROM party.requests WHERE legacy->>'id' = 'r{turn + 20}'")
                    == "played"
                )
            )
            await running.clean()
            gone = (
                f"SELECT count(*) FROM party.requests WHERE legacy->>'id' IN ('r{turn + 10}', 'r{turn + 30}')",
                f"SELECT count(*) FROM party.admins WHERE email = 'new{turn}@example.org'",
            )
            assert [one(database.dsn, each) for each in gone] == [0, 0]
            assert one(database.dsn, SLOTS) == 1


async def test_two_databases(database: Database, other_database: Database) -> None:
    seed(database.dsn)
    async with daemon(make_settings(database, other_database)) as running:
        await running.ready()
        await running.cut_over()
        execute(other_database.dsn, ["UPDATE party.requests SET status = 'rejected' WHERE legacy->>'id' = 'r1'"])
        await running.clean()
        await running.roll_back()
        for dsn in (database.dsn, other_database.dsn):
            assert one(dsn, "SELECT replicator.active_schema()") == "public"
        assert one(database.dsn, "SELECT status FROM requests WHERE id = 'r1'") == "rejected"
        assert refused(other_database.dsn, "DELETE FROM party.requests")
        execute(database.dsn, ["UPDATE requests SET status = 'played' WHERE id = 'r2'"])
        await running.until(
            lambda: one(other_database.dsn, "SELECT status FROM party.requests WHERE legacy->>'id' = 'r2'") == "played"
        )


@pytest.mark.one_server
@pytest.mark.parametrize("committed", [False, True])
async def test_a_daemon_that_died_in_the_rollback(database: Database, committed: bool) -> None:
    """Dead just before or just after the commit: the next one reads the state row, and goes on from there."""
    seed(database.dsn)
    point = Failpoint.CUTOVER_COMMITTED if committed else Failpoint.CUTOVER_COMMITTING
    async with daemon(make_settings(database)) as running:
        await running.ready()
        await running.cut_over()
        await running.clean()
        with killed_at(point), pytest.raises(KilledError):
            await running.roll_back()
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
    assert one(database.dsn, "SELECT phase FROM _replicator.state") == "rollback"
    async with daemon(make_settings(database)) as running:
        await running.until(running.session.up.is_set)
        assert running.session.phase.now == (Phase.FOLLOW if committed else Phase.SOAK)
        assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == ("old" if committed else "new")
        table, other = ("public", "party") if committed else ("party", "public")
        execute(database.dsn, [f"UPDATE {table}.requests SET status = 'played'"])
        assert refused(database.dsn, f"DELETE FROM {other}.requests")
        played = f"SELECT count(*) FROM {other}.requests WHERE status = 'played'"
        await running.until(lambda: one(database.dsn, played) == 300)
        assert one(database.dsn, SLOTS) == 1


@pytest.mark.one_server
async def test_a_dry_run_leaves_everything_as_it_was(database: Database) -> None:
    seed(database.dsn)
    async with daemon(make_settings(database)) as running:
        await running.ready()
        result = await running.cut_over(dry_run=True)
        assert result.dry_run
        assert result.write_pause_seconds > 0
        assert one(database.dsn, "SELECT phase FROM _replicator.state") == "follow"
        assert one(database.dsn, "SELECT replicator.active_schema()") == "public"
        assert one(database.dsn, SLOTS) == 1
        assert not refused(database.dsn, "UPDATE requests SET status = 'played' WHERE id = 'r1'")
        assert refused(database.dsn, "DELETE FROM party.requests")
        await running.until(
            lambda: one(database.dsn, "SELECT status FROM party.requests WHERE legacy->>'id' = 'r1'") == "played"
        )
        assert one(database.dsn, "SELECT count(*) FROM _replicator.journal WHERE event = 'dry run'") == 1
        await running.clean()
        assert (await running.cut_over()).epoch == 1
        assert (await running.roll_back(dry_run=True)).dry_run
        assert one(database.dsn, "SELECT phase FROM _replicator.state") == "soak"
        assert refused(database.dsn, "DELETE FROM requests")


async def test_what_belongs_to_one_side_only_is_left_alone(database: Database, tmp_path: Path) -> None:
    """An old row that has no new one is no divergence in the soak, and still there after the rollback."""
    create_small(database.dsn, "INSERT INTO people SELECT i, 'p' || i, i::text FROM generate_series(1, 20) i")
    execute(database.dsn, ["UPDATE people SET name = 'nobody' WHERE id IN (4, 5)"])
    async with daemon(make_settings(database), small_migration(tmp_path)) as running:
        await running.ready()
        await running.cut_over()
        execute(database.dsn, ["DELETE FROM store.people WHERE id = 7"])
        await running.clean()
        assert one(database.dsn, "SELECT count(*) FROM people WHERE name = 'nobody'") == 2
        execute(
            database.dsn,
            [
                "SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets",
                "INSERT INTO people VALUES (99, 'left behind', '1')",
            ],
        )
        assert running.active is not None
        await running.session.pipelines.stop_verifying()
        await running.active.verifier.open()
        found = (await running.active.verifier.full_pass()).divergences
        assert [(each.target, each.kind, each.key) for each in found] == [("people", "extra", ("99",))]


async def test_what_the_old_schema_cannot_hold_is_kept_aside(database: Database, tmp_path: Path) -> None:
    """A new row that has become another than the old one gives; one that no old row would give stays."""
    create_small(
        database.dsn,
        "INSERT INTO people SELECT i, 'p' || i, i::text FROM generate_series(1, 20) i",
        "INSERT INTO pets VALUES (1, 1, 'Rex'), (2, 2, 'Tom')",
    )
    async with daemon(make_settings(database), small_migration(tmp_path)) as running:
        await running.ready()
        await running.cut_over()
        execute(
            database.dsn,
            [
                "UPDATE store.homes SET pets = '{Rex,Bello}' WHERE owner = 1",
                "INSERT INTO store.tags VALUES ('#new', 1)",
                "DELETE FROM store.people WHERE id = 3",
            ],
        )
        await running.clean()
        await running.roll_back()
        await running.clean()
        assert one(database.dsn, "SELECT pets::text FROM store.homes WHERE owner = 1") == "{Rex}"
        assert one(database.dsn, "SELECT row_as_it_was->>'pets' FROM _replicator.kept") == "{Rex,Bello}"
        journalled = "SELECT details->'rows' FROM _replicator.journal WHERE event = 'reconciled'"
        assert one(database.dsn, journalled) == {"homes": 1}
        assert one(database.dsn, "SELECT count(*) FROM store.tags") == 1
        assert one(database.dsn, "SELECT count(*) FROM store.people") == 19
        assert (await running.cut_over()).epoch == 3


@pytest.mark.one_server
async def test_the_search_path_moves_with_the_ownership(database: Database) -> None:
    seed(database.dsn, 5)
    role = f"app_{database.name}"
    execute(database.dsn, [f"CREATE ROLE {role}", f"ALTER ROLE {role} SET search_path = '$user', 'Other, one', public"])
    shown = (
        "SELECT string_agg(setconfig::text, ' ') FROM pg_db_role_setting "
        f"WHERE setrole = '{role}'::regrole AND setdatabase <> 0"
    )
    try:
        async with daemon(make_settings(database)) as running:
            await running.ready()
            with pytest.raises(NotReadyError, match="no role nobody_there"):
                await running.cut_over(search_path_of="nobody_there")
            assert running.steps == []
            await running.cut_over(search_path_of=role, dry_run=True)
            assert one(database.dsn, shown) is None
            await running.cut_over(search_path_of=role)
            assert one(database.dsn, shown) == '{"search_path=\\"$user\\", \\"Other, one\\", party"}'
            await running.clean()
            await running.roll_back()
            assert one(database.dsn, shown) is None
            await running.clean()
            await running.cut_over(search_path_of=role)
            await running.clean()
            execute(database.dsn, [f"DROP ROLE {role}"])
            await running.roll_back()  # a role that is gone keeps nothing from going back
    finally:
        execute(database.dsn, [f"DROP ROLE IF EXISTS {role}"])


@pytest.mark.parametrize(
    ("path", "after"),
    [
        ('"$user", public', ["$user", "new"]),
        ("Public", ["new"]),
        ('"Public"', ["new", "Public"]),
        ('a,"b ""c, d", public ,new', ["a", 'b "c, d', "new"]),
        ("", ["new"]),
    ],
)
def test_one_schema_in_the_place_of_the_other(path: str, after: list[str]) -> None:
    assert moved(path, "public", "new") == after


@pytest.mark.one_server
async def test_the_gates_of_the_way_back_are_those_of_its_own_database(
    database: Database, other_database: Database, tmp_path: Path
) -> None:
    create_small(database.dsn, "INSERT INTO people SELECT i, 'p' || i, i::text FROM generate_series(1, 20) i")
    execute(database.dsn, ["ALTER TABLE people ADD CHECK (id < 1000)"])
    async with daemon(make_settings(database, other_database), small_migration(tmp_path)) as running:
        await running.ready()
        await running.cut_over()
        execute(other_database.dsn, ["INSERT INTO store.people (id, name) VALUES (2000, 'too much')"])
        await running.until(lambda: one(database.dsn, "SELECT count(*) FROM _replicator.quarantine") == 1)
        shut = [gate.name for gate in await running.session.gates.current() if not gate.ok]
        assert "quarantine" in shut
