"""What is stored with the rows, and when: the applied position, the chunks, and what may be confirmed (I2, I3)."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from replicator.core.lsn import LSN
from replicator.errors import DatabaseError
from replicator.mapping.derive import TargetRow
from replicator.postgres.control.progress import (
    Chunk,
    add_chunk,
    add_source,
    consistent_point,
    create_progress,
    finish_chunk,
    read_progress,
    write_applied,
)
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.committing import commit
from replicator.postgres.session.connect import connection
from replicator.runtime.failpoints import Failpoint, handled
from tests.engine import SECONDS, engine, execute
from tests.fix_postgres import Database
from tests.small import create_small, small_migration

pytestmark = pytest.mark.every_server


async def test_nothing_is_confirmed_before_its_commit(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def held() -> None:
            begun.set()
            await go_on.wait()

        follower = made.running._follower
        before = follower._flushed
        with handled(Failpoint.BATCH_COMMITTING, held):
            execute(database.dsn, ["INSERT INTO people VALUES (1, 'a', '1')"])
            await asyncio.wait_for(begun.wait(), SECONDS)
            assert follower._flushed == before
            go_on.set()
            await made.drain()
        assert follower._flushed > before


async def test_the_consistent_point_is_where_the_last_chunk_was_read(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn)
    async with engine(database, small_migration(tmp_path)) as made, connection(database.dsn, "test") as target:
        await made.stop()
        await target.execute("DELETE FROM _replicator.chunks")
        await target.execute("DELETE FROM _replicator.sources")
        await add_source(target, "forward", "people", 0)
        chunks = [Chunk(source="people", ordinal=each, lower=None, upper=None) for each in range(3)]
        for chunk, read_at in zip(chunks, (LSN(20), LSN(30), LSN(10)), strict=True):
            assert await consistent_point(target, "forward") is None
            await add_chunk(target, "forward", chunk, last=chunk.ordinal == 2)
            await finish_chunk(target, "forward", chunk, read_at, 0)
        assert await consistent_point(target, "forward") == LSN(30)


async def test_progress_comes_back_as_it_was_stored(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn)
    async with engine(database, small_migration(tmp_path)) as made, connection(database.dsn, "test") as target:
        await made.stop()
        stored = await read_progress(target, "forward")
        assert stored is not None
        await create_progress(target, "reverse", stored)
        await write_applied(target, "reverse", LSN(stored.applied + 8), unseen={4_000_000_000, 7})
        found = await read_progress(target, "reverse")
        assert found is not None
        assert found.applied == stored.applied + 8
        assert found.unseen == {4_000_000_000, 7}
        assert found.slot == stored.slot
        await target.execute("UPDATE _replicator.progress SET start_marker = 'begin' WHERE pipeline = 'reverse'")
        for started, marker in ((False, "begin"), (True, None)):
            await write_applied(target, "reverse", stored.applied, unseen=(), started=started)
            found = await read_progress(target, "reverse")
            assert found is not None
            assert (found.start_marker, found.unseen) == (marker, frozenset())


async def test_a_chunk_leaves_rows_alone_that_are_there(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn)
    async with engine(database, small_migration(tmp_path)) as made, connection(database.dsn, "test") as target:
        plan = made.running.context.plan
        table = next(each for each in plan.targets if each.name.table == "people")
        await made.stop()
        writer = TargetWriter(target, plan.targets)
        await writer.prepare()
        await target.execute("INSERT INTO store.people (id, name) VALUES (1, 'there')")
        rows = [TargetRow("person", (key,), (key,), {"id": key, "name": "read"}) for key in ("1", "2")]
        async with target.transaction():
            writer.transaction_begins()
            assert await writer.insert_absent(table, rows) == 1
    with psycopg.connect(database.dsn) as opened:
        assert opened.execute("SELECT name FROM store.people ORDER BY id").fetchall() == [("there",), ("read",)]


@pytest.mark.one_server
async def test_what_the_server_rolls_back_is_not_taken_for_committed(database: Database) -> None:
    """COMMIT in a transaction that has failed is no error of Postgres'."""
    async with connection(database.dsn, "test") as opened:
        await opened.execute("CREATE TABLE public.made ()")
        await opened.execute("BEGIN")
        await opened.execute("INSERT INTO public.made DEFAULT VALUES")
        with pytest.raises(psycopg.Error):
            await opened.execute("SELECT 1 / 0")
        with pytest.raises(DatabaseError, match="rolled it back"):
            await commit(opened)
        await opened.execute("BEGIN")
        await opened.execute("INSERT INTO public.made DEFAULT VALUES")
        await commit(opened)
        cursor = await opened.execute("SELECT count(*) FROM public.made")
        assert await cursor.fetchone() == (1,)
