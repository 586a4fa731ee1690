"""Each check of a server: the condition is made on a real one, the remedy is followed, and the check passes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from replicator import Migration
from replicator.demo.embedded import Cluster
from replicator.errors import CheckError
from replicator.postgres.control.control import install
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.session.server import choose_plugin, probe_plugin
from replicator.postgres.wire.slots import create_slot
from replicator.preflight import server_checks
from tests.checking import OLD, check, check_with, follow_remedy, one_database, outcomes, statements, tiny
from tests.fix_postgres import Database, MakeCluster, Running, fresh_database
from tests.waiting import wait_until

LIST = "output_plugin_libraries"
SOON = 20.0


@pytest.fixture
def old(database: Database) -> Database:
    with database.connect() as connected:
        connected.execute(OLD)
    return database


@pytest.fixture
def one(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    with one_database(request.config, _running) as made:
        yield made


# ---- settings


async def test_a_server_with_settings_that_do_not_fit(old: Database, make_cluster: MakeCluster, tmp_path: Path) -> None:
    bad = {"wal_level": "replica", "max_replication_slots": "1", "max_wal_senders": "1", "wal_sender_timeout": "0"}
    bad |= {"max_slot_wal_keep_size": "100MB", "synchronous_commit": "off"}
    bad |= {"idle_session_timeout": "1h", "lock_timeout": "30s"}  # pinned in each session of ours, so harmless
    cluster = make_cluster(**bad)
    found = await check(old, tiny(tmp_path), target_dsn=cluster.dsn())
    assert found["migration.databases"].detail == "old and new on two servers"
    assert outcomes(found, "fail") == {"target.wal_level"}, "the way back follows the target, with one slot"

    knows_more = cluster.version >= 18
    with psycopg.connect(cluster.dsn(), autocommit=True) as connected:
        connected.execute(OLD)
        if knows_more:
            connected.execute("ALTER SYSTEM SET transaction_timeout = '1h'")
            connected.execute("ALTER SYSTEM SET idle_replication_slot_timeout = '60s'")
            connected.execute("SELECT pg_reload_conf()")
            affirmed(connected, "SELECT current_setting('transaction_timeout') <> '0'")
    found = await check_with(tiny(tmp_path), source_dsn=cluster.dsn())
    failed = {"source.wal_level", "source.replication_slots", "source.wal_senders"}
    warned = {"source.slot_limits", "source.wal_sender_timeout", "source.durability"}
    assert outcomes(found, "fail") == failed
    assert outcomes(found, "warn") == warned
    assert "rds.logical_replication" in found["source.wal_level"].remedy
    assert "source.plugin" not in found, "nothing to be tried at this level"
    assert ("idle_replication_slot_timeout" in found["source.slot_limits"].detail) == knows_more

    for name in failed | warned:
        follow_remedy(cluster.dsn(), found[name])
    cluster.restart()
    assert outcomes(await check_with(tiny(tmp_path), source_dsn=cluster.dsn()), "pass") >= set(found)


@pytest.fixture
def own_cluster(one: Database) -> Cluster:
    """The cluster of the first server, where it is ours."""
    if one.server.cluster is None:
        pytest.skip("needs server binaries: the server is given by its DSN or by Docker")
    return one.server.cluster


@pytest.fixture
def two_slots(own_cluster: Cluster) -> Iterator[Cluster]:
    with Cluster(own_cluster.programs, settings={"max_replication_slots": "2"}) as made:
        yield made


async def test_a_server_that_is_full_and_one_that_cannot_be_written_to(two_slots: Cluster, tmp_path: Path) -> None:
    cluster = two_slots
    with psycopg.connect(cluster.dsn(), autocommit=True) as connected:
        connected.execute(OLD)
        connected.execute("SELECT pg_create_physical_replication_slot('a'), pg_create_physical_replication_slot('b')")
        found = await check_with(tiny(tmp_path), source_dsn=cluster.dsn())
        assert outcomes(found, "fail") == {"source.replication_slots"}
        assert "inactive: a, b" in found["source.replication_slots"].remedy
        assert "source.plugin" not in found
        async with connection(cluster.dsn(), "test") as tried:
            with pytest.raises(CheckError, match="all replication slots are in use"):
                await choose_plugin(tried, "auto")
        connected.execute("SELECT pg_drop_replication_slot('a'), pg_drop_replication_slot('b')")
        assert outcomes(await check_with(tiny(tmp_path), source_dsn=cluster.dsn()), "fail") == set()

        connected.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
        found = await check_with(tiny(tmp_path), source_dsn=cluster.dsn())
        assert found["source.writable"].outcome == "fail"
        for line in statements(found["source.writable"]):
            connected.execute(line.encode())
    assert (await check_with(tiny(tmp_path), source_dsn=cluster.dsn()))["source.writable"].outcome == "pass"

    cluster.stop()
    (cluster.folder / "data" / "standby.signal").touch()
    cluster.start()
    found = await check_with(tiny(tmp_path), source_dsn=cluster.dsn())
    assert found["source.writable"].outcome == "fail"
    assert "standby" in found["source.writable"].detail
    assert "REPLICATOR_SOURCE_DSN" in found["source.writable"].remedy


# ---- slots and transactions


async def test_a_slot_of_our_name(one: Database, tmp_path: Path) -> None:
    with one.connect() as connected:
        connected.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [one.name])
        connected.execute("SELECT pg_create_physical_replication_slot(%s)", [f"{one.name}_reverse"])
    found = await check(one, tiny(tmp_path), plugin="wal2json")
    try:
        assert found["source.slot"].outcome == "fail"
        assert f"{one.name} was made with the plugin pgoutput, not wal2json" in found["source.slot"].detail
        assert f"{one.name}_reverse is a physical one" in found["source.slot"].detail
    finally:
        follow_remedy(one.dsn, found["source.slot"])
    assert (await check(one, tiny(tmp_path)))["source.slot"].outcome == "pass"


async def test_a_slot_of_our_name_in_another_database(one: Database, tmp_path: Path) -> None:
    with fresh_database(one.server) as other:
        with other.connect() as connected:
            connected.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [one.name])
        found = await check(one, tiny(tmp_path))
        assert outcomes(found, "fail") == {"source.slot"}
        assert f"belongs to the database {other.name}" in found["source.slot"].detail
        follow_remedy(other.dsn, found["source.slot"])
    assert (await check(one, tiny(tmp_path)))["source.slot"].outcome == "pass"


async def test_each_of_two_databases_has_a_slot(one: Database, tmp_path: Path) -> None:
    with fresh_database(one.server) as other:
        for database, name in ((one, one.name), (other, f"{one.name}_reverse")):
            await has_made(database, name)
        found = await check(one, tiny(tmp_path), target_dsn=other.dsn, plugin="pgoutput")
        assert found["source.slot"].outcome == "pass", found["source.slot"]


async def test_a_slot_that_fits_decides_the_plugin(one: Database, tmp_path: Path) -> None:
    await has_made(one, one.name)
    found = await check(one, tiny(tmp_path), plugin="auto")
    assert found["source.slot"].detail == f"in place: {one.name}"
    assert found["source.plugin"].detail == "pgoutput"


async def has_made(database: Database, slot: str) -> None:
    """The migration has made a slot, and come no further."""
    async with connection(database.dsn, "test") as opened:
        await install(opened, Migration("tiny", old="old", new="new"))
        await create_slot(opened, slot, "pgoutput")


async def test_a_slot_that_we_have_not_made(one: Database, tmp_path: Path) -> None:
    with one.connect() as connected:
        connected.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [one.name])
    found = await check(one, tiny(tmp_path), plugin="pgoutput")
    assert f"has not made the slot {one.name}" in found["source.slot"].detail
    follow_remedy(one.dsn, found["source.slot"])
    assert (await check(one, tiny(tmp_path)))["source.slot"].outcome == "pass"


async def test_open_and_prepared_transactions(one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_checks, "LONG", 0.2)
    with one.connect() as writer, one.connect() as preparing, one.connect() as watcher:
        writer.execute("BEGIN")
        writer.execute("UPDATE old.people SET note = 'x' WHERE id = 1")
        preparing.execute("BEGIN")
        preparing.execute("UPDATE old.people SET note = 'y' WHERE id = 2")
        preparing.execute(f"PREPARE TRANSACTION '{one.name}'".encode())
        affirmed(watcher, "SELECT clock_timestamp() > max(prepared) + interval '0.3 s' FROM pg_prepared_xacts")
        found = await check(one, tiny(tmp_path))
        assert {"source.long_transactions", "source.prepared_transactions"} <= outcomes(found, "warn")
        assert str(writer.info.backend_pid) in found["source.long_transactions"].detail
        assert found["source.plugin"].outcome == "pass", "a slot that waits has its plugin already"
        follow_remedy(one.dsn, found["source.long_transactions"])
        follow_remedy(one.dsn, found["source.prepared_transactions"])
        with contextlib.suppress(psycopg.Error):
            writer.execute("COMMIT")
    found = await check(one, tiny(tmp_path))
    assert {"source.long_transactions", "source.prepared_transactions"} <= outcomes(found, "pass")


# ---- roles


async def test_a_role_that_may_not_replicate(one: Database, tmp_path: Path) -> None:
    role = f"{one.name}_r"
    with one.connect() as connected:
        connected.execute(f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} NOSUPERUSER".encode())
        try:
            dsn = one.dsn.replace("postgres@", f"{role}@")
            found = await check(one, tiny(tmp_path), source_dsn=dsn, target_dsn=one.dsn)
            assert found["source.replication_role"].outcome == "fail"
            assert not {"source.plugin", "source.replication_connection"} & set(found)
            async with connection(dsn, "test") as tried:
                with pytest.raises(CheckError, match="creates no logical replication slot"):
                    await choose_plugin(tried, "auto")
            follow_remedy(one.dsn, found["source.replication_role"])
            found = await check(one, tiny(tmp_path), source_dsn=dsn, target_dsn=one.dsn)
            assert {"source.replication_role", "source.plugin"} <= outcomes(found, "pass")
            assert "only our own are visible" in found["source.long_transactions"].detail
        finally:
            connected.execute(f"DROP ROLE {role}".encode())


# ---- the plugin


@pytest.fixture
async def tried(old: Database) -> AsyncIterator[Connection]:
    async with connection(old.dsn, "test") as connected:
        yield connected


async def test_the_plugin_is_chosen(old: Database, tried: Connection) -> None:
    assert await choose_plugin(tried, old.plugin) == old.plugin
    assert await choose_plugin(tried, "pgoutput") == "pgoutput"
    has_wal2json = old.server.cluster is not None and old.server.cluster.has_wal2json
    if has_wal2json:
        assert await choose_plugin(tried, "auto") == "wal2json"
    elif old.server.cluster is not None:
        assert await choose_plugin(tried, "auto") == "pgoutput"
        with pytest.raises(CheckError, match=r"wal2json is not installed|does not allow"):
            await choose_plugin(tried, "wal2json")
    cursor = await tried.execute("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'replicator_probe%'")
    assert await cursor.fetchone() == (0,)


async def test_a_slot_that_has_to_wait_proves_the_plugin(old: Database, tried: Connection) -> None:
    with old.connect() as writer, old.connect() as watcher:
        writer.execute("BEGIN")
        writer.execute("DELETE FROM old.trash")
        writer.execute("SELECT pg_current_xact_id()")
        assert await probe_plugin(tried, old.plugin) == "usable"
        assert await probe_plugin(tried, "no_such_plugin") in ("absent", "refused")
        left = watcher.execute("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'replicator_probe%'")
        assert left.fetchone() == (0,)


async def test_an_interrupted_probe_leaves_no_slot(
    old: Database, tried: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.postgres.session.server.PROBE_MILLISECONDS", 60_000)
    with old.connect() as writer, old.connect() as watcher:
        writer.execute("BEGIN")
        writer.execute("SELECT pg_current_xact_id()")
        probing = asyncio.create_task(probe_plugin(tried, "pgoutput"))
        slots = "SELECT count(*) = {} FROM pg_replication_slots WHERE slot_name LIKE 'replicator_probe%'"
        await asyncio.to_thread(affirmed, watcher, slots.format(1))
        probing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await probing
        await asyncio.to_thread(affirmed, watcher, slots.format(0))


@pytest.fixture
def guarded(one: Database, own_cluster: Cluster) -> Iterator[Cluster]:
    """A server with wal2json that knows the list of plugins and has only its default."""
    with one.connect() as connected:
        known = connected.execute("SELECT count(*) FROM pg_settings WHERE name = %s", [LIST]).fetchone() == (1,)
    if not known or not own_cluster.has_wal2json:
        pytest.skip("needs wal2json on a version that has a list of allowed plugins")
    with Cluster(own_cluster.programs, settings={LIST: "pgoutput, test_decoding"}) as made:
        yield made


async def test_a_plugin_that_is_not_allowed(guarded: Cluster, tmp_path: Path) -> None:
    dsn = guarded.dsn()
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(OLD)
        assert (await check_with(tiny(tmp_path), source_dsn=dsn))["source.plugin"].detail == "pgoutput", "auto"
        found = await check_with(tiny(tmp_path), source_dsn=dsn, plugin="wal2json")
        assert outcomes(found, "fail") == {"source.plugin"}
        assert "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, wal2json;" in statements(
            found["source.plugin"]
        )

        # One string is one name, and no plugin at all is allowed then.
        set_list(admin, "'pgoutput, test_decoding, wal2json'")
        found = await check_with(tiny(tmp_path), source_dsn=dsn, plugin="wal2json")
        assert outcomes(found, "fail") == {"source.plugin"}
        async with connection(dsn, "test") as tried:
            with pytest.raises(CheckError, match="pgoutput") as refused:
                await choose_plugin(tried, "auto")
        assert "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, wal2json;" in str(refused.value)

        follow_remedy(dsn, found["source.plugin"])
        affirmed(admin, f"SELECT current_setting('{LIST}') = 'pgoutput, test_decoding, wal2json'")
        found = await check_with(tiny(tmp_path), source_dsn=dsn, plugin="wal2json")
        assert found["source.plugin"].detail == "wal2json"

        # A role that may not see the list learns it from the slot all the same.
        set_list(admin, "pgoutput")
        admin.execute("CREATE ROLE plain LOGIN REPLICATION")
        async with connection(guarded.dsn(user="plain"), "test") as tried:
            assert await choose_plugin(tried, "auto") == "pgoutput"
            with pytest.raises(CheckError, match="does not allow the output plugin wal2json"):
                await choose_plugin(tried, "wal2json")


def set_list(admin: psycopg.Connection[tuple[object, ...]], value: str) -> None:
    before = admin.execute(f"SHOW {LIST}".encode()).fetchone()
    admin.execute(f"ALTER SYSTEM SET {LIST} = {value}".encode())
    admin.execute("SELECT pg_reload_conf()")
    assert before is not None
    affirmed(admin, f"SELECT current_setting('{LIST}') <> $${before[0]}$$")


def affirmed(connected: psycopg.Connection[tuple[object, ...]], question: str) -> None:
    """Ask the server, a condition in SQL, until it says yes."""
    wait_until(lambda: connected.execute(question.encode()).fetchone() == (True,), said=lambda: question)
