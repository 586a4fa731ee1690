"""The slot must go on exactly where the stored progress ends; anything else stops the daemon with what to do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration
from replicator.core.lsn import LSN, parse_lsn
from replicator.errors import ConnectionLostError, SlotError
from replicator.postgres.control.control import install
from replicator.postgres.control.progress import Progress
from replicator.postgres.session.connect import connection
from replicator.postgres.wire.slots import check_slot, create_slot, drop_slot, read_slot
from tests.engine import engine, execute
from tests.fix_postgres import Database
from tests.small import create_small, small_migration
from tests.waiting import until, wait_until

pytestmark = pytest.mark.every_server


def released(opened: psycopg.Connection[Any], slot: str) -> None:
    """Wait until the process that read it has ended: it notices late that its client has gone."""
    active = "SELECT FROM pg_replication_slots WHERE slot_name = %s AND active"
    wait_until(lambda: not opened.execute(active, [slot]).rowcount)


def drop(dsn: str, slot: str, plugin: str) -> None:
    del plugin
    with psycopg.connect(dsn, autocommit=True) as opened:
        released(opened, slot)
        opened.execute("SELECT pg_drop_replication_slot(%s)", [slot])


def make_anew(dsn: str, slot: str, plugin: str) -> None:
    drop(dsn, slot, plugin)
    execute(dsn, ["INSERT INTO people VALUES (1, 'lost to the stream', '1')"])
    with psycopg.connect(dsn, autocommit=True) as opened:
        opened.execute("SELECT pg_create_logical_replication_slot(%s, %s)", [slot, plugin])


def read_ahead(dsn: str, slot: str, plugin: str) -> None:
    del plugin
    execute(dsn, ["INSERT INTO people VALUES (1, 'read by somebody else', '1')"])
    with psycopg.connect(dsn, autocommit=True) as opened:
        released(opened, slot)
        opened.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [slot])


@pytest.mark.parametrize(
    ("meddle", "says"),
    [
        (drop, "is gone"),
        (make_anew, "ahead of what is stored"),
        (read_ahead, "ahead of what is stored"),
    ],
)
async def test_a_slot_that_does_not_go_on(
    database: Database, tmp_path: Path, meddle: Callable[[str, str, str], None], says: str
) -> None:
    create_small(database.dsn)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        await made.stop()
        meddle(database.dsn, made.settings.slot, database.plugin)
        with pytest.raises(SlotError, match=says) as refused:
            await made.start()
        assert refused.value.remedy
        with psycopg.connect(database.dsn) as target:
            assert target.execute("SELECT count(*) FROM store.people").fetchone() == (0,)


async def test_what_else_a_slot_may_be(database: Database) -> None:
    async with connection(database.dsn, "test") as opened:
        await install(opened, Migration("any", old="public", new="store"))
        created = await create_slot(opened, f"s_{database.name}", database.plugin)
        slot = await read_slot(opened, f"s_{database.name}")
        assert slot is not None
        progress = Progress(
            slot=slot.name, plugin=database.plugin, system_id="1", created=created, applied=slot.confirmed
        )
        check_slot(slot, progress, "1", 1)
        for wrong, says in (
            (replace(slot, wal_status="lost"), "removed WAL"),
            (replace(slot, here=False), "belongs to the database"),
            (replace(slot, plugin="other"), "re-created with the plugin other"),
            (replace(slot, confirmed=LSN(slot.confirmed + 1)), "ahead"),
        ):
            with pytest.raises(SlotError, match=says):
                check_slot(wrong, progress, "1", 1)
        with pytest.raises(SlotError, match="another cluster"):
            check_slot(slot, progress, "2", 1)
        with pytest.raises(SlotError, match="standby that was promoted"):
            check_slot(slot, progress, "1", 2)
        await drop_slot(opened, slot.name)
        assert await read_slot(opened, slot.name) is None
        await drop_slot(opened, slot.name)


async def test_other_databases_log_is_not_kept_for_ever(
    database: Database, other_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written here: only what the server says of its position can be confirmed."""
    monkeypatch.setattr("replicator.pipeline.pipeline.IDLE_PROGRESS_SECONDS", 0.0)
    create_small(database.dsn)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(other_database.dsn, ["CREATE TABLE busy AS SELECT repeat('x', 100) FROM generate_series(1, 5000)"])
        with other_database.connect() as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_current_wal_lsn()::text")
            row = cursor.fetchone()
        wanted = parse_lsn(str(row[0] if row else ""))

        async def confirmed() -> None:
            async with connection(database.dsn, "test") as opened:

                async def told() -> bool:
                    await made.running.nudge()
                    slot = await read_slot(opened, made.settings.slot)
                    return slot is not None and slot.confirmed >= wanted

                await until(told)

        await made.within(confirmed())


async def test_what_is_confirmed_is_flushed(database: Database, tmp_path: Path) -> None:
    """Whatever the database says: a commit that is forgotten in a crash must not have been confirmed."""
    create_small(database.dsn)
    execute(database.dsn, [f'ALTER DATABASE "{database.name}" SET synchronous_commit = off'])
    async with engine(database, small_migration(tmp_path)) as made:
        execute(
            database.dsn,
            [
                "CREATE TABLE seen (setting text)",
                "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$",
                "CREATE TRIGGER look AFTER INSERT ON store.people FOR EACH ROW EXECUTE FUNCTION look()",
                "INSERT INTO people VALUES (1, 'copied', '1')",
            ],
        )
        await made.backfill()
        execute(database.dsn, ["INSERT INTO people VALUES (2, 'followed', '2')"])
        await made.drain()
        with psycopg.connect(database.dsn) as target:
            assert set(target.execute("SELECT setting FROM seen")) == {("on",)}


async def test_a_slot_that_is_dropped_while_it_is_read(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        async with connection(database.dsn, "test") as opened:
            await drop_slot(opened, made.settings.slot)
        assert isinstance(await made.failure(), ConnectionLostError)
        await made.stop()
        execute(database.dsn, ["INSERT INTO people VALUES (1, 'in no slot', '1')"])
        with pytest.raises(SlotError, match="is gone"):
            await made.start()


async def test_another_timeline(database: Database, tmp_path: Path) -> None:
    """A standby that was promoted may lack what is applied here; a slot of the same name there would not show it."""
    create_small(database.dsn)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        await made.stop()
        execute(database.dsn, ["UPDATE _replicator.progress SET timeline = timeline - 1"])
        with pytest.raises(SlotError, match="it is a standby that was promoted, or was restored"):
            await made.start()


async def test_another_databases_slot_is_let_alone(database: Database, other_database: Database) -> None:
    """Names count for the whole cluster: it is another migration's way back."""
    slot = f"t_{database.name[-20:]}"
    async with connection(database.dsn, "test") as here, connection(other_database.dsn, "test") as there:
        for opened in (here, there):
            await install(opened, Migration("any", old="public", new="store"))
        await create_slot(there, slot, "pgoutput")
        await drop_slot(here, slot)
        assert await read_slot(there, slot) is not None
        await drop_slot(there, slot)
        assert await read_slot(there, slot) is None
