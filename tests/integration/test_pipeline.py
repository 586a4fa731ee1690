"""Backfill and follow together, on every server: whatever the stream carries, the target comes to f(source)."""

import asyncio

import psycopg
import pytest

from tests.engine import differences, engine, execute, reference
from tests.fix_postgres import Database
from tests.reference import NEW_REQUEST, seed
from tests.waiting import until


async def test_backfill_copies_what_was_there_before_the_slot(database: Database) -> None:
    seed(database.dsn)
    async with engine(database, reference()) as made:
        await made.backfill()
        assert await differences(made) == []
        with psycopg.connect(database.dsn) as target:
            assert target.execute("SELECT count(*) FROM party.requests").fetchone() == (300,)


EACH_KIND = (
    ["UPDATE requests SET status = 'queued', approved_at = now() WHERE id IN ('r1', 'r2')"],
    ["DELETE FROM requests WHERE id = 'r3'"],
    ["UPDATE requests SET id = 'moved' WHERE id = 'r4'"],
    [NEW_REQUEST.format("one"), NEW_REQUEST.format("two"), "DELETE FROM requests WHERE id = 'one'"],
    ["UPDATE settings SET value = 'two' WHERE key = 'party_name'", "DELETE FROM settings WHERE key = 'x'"],
    ["UPDATE admins SET is_active = false WHERE id = 'a1'"],
    [
        "DELETE FROM admins WHERE id = 'a1'",
        "INSERT INTO admins (id, username, password_hash) VALUES ('a3', 'ann', 'z')",
    ],
    ["UPDATE spotify_auth SET access_token = 'other'"],
    ["DELETE FROM event_settings"],
    ["TRUNCATE settings, admins"],
    ["INSERT INTO event_settings (id) VALUES (1)"],
    ["TRUNCATE requests", NEW_REQUEST.format("after")],
)
"""Transactions, each applied and compared before the next."""


async def test_each_kind_of_change_follows(database: Database) -> None:
    seed(database.dsn)
    async with engine(database, reference()) as made:
        await made.backfill()
        await made.build()
        for statements in EACH_KIND:
            execute(database.dsn, statements)
            await made.drain()
            assert await differences(made) == [], statements


async def test_unique_values_change_hands_in_one_transaction(database: Database) -> None:
    seed(database.dsn)
    async with engine(database, reference()) as made:
        await made.backfill()
        await made.build()
        execute(
            database.dsn,
            [
                "UPDATE admins SET username = 'tmp' WHERE id = 'a1'",
                "UPDATE admins SET username = 'ann' WHERE id = 'a2'",
                "UPDATE admins SET username = 'bob' WHERE id = 'a1'",
            ],
        )
        await made.drain()
        assert await differences(made) == []
        assert made.running.context.quarantined == set()


@pytest.mark.parametrize("batch_rows", [100, 1])
async def test_a_key_change_keeps_its_unique_value(database: Database, batch_rows: int) -> None:
    seed(database.dsn)
    async with engine(database, reference(), batch_rows=batch_rows) as made:
        await made.backfill()
        await made.build()
        execute(database.dsn, ["UPDATE admins SET id = 'renamed' WHERE id = 'a1'", "UPDATE settings SET value = 'x'"])
        execute(database.dsn, ["UPDATE admins SET id = 'again' WHERE id = 'a2'"])
        await made.drain()
        assert await differences(made) == []
        assert made.running.context.quarantined == set()


async def test_changes_made_while_chunks_are_copied(database: Database) -> None:
    seed(database.dsn, 2_000)
    async with engine(database, reference(), chunk_rows=20) as made:
        copying = asyncio.create_task(made.backfill())
        number = 0
        while not copying.done():
            number += 1
            await asyncio.to_thread(
                execute,
                database.dsn,
                [
                    f"DELETE FROM requests WHERE id = 'r{number * 37 % 2000}'",
                    f"UPDATE requests SET status = 'played' WHERE id = 'r{number * 91 % 2000}'",
                    f"UPDATE requests SET id = 'n{number}' WHERE id = 'r{number * 53 % 2000}'",
                    f"UPDATE settings SET value = '{number}'",
                ],
            )
        await copying
        await made.drain()
        assert number > 3, "nothing was written while chunks were copied"
        assert await differences(made) == []


@pytest.mark.parametrize("moment", ["backfill", "follow"])
async def test_stopped_anywhere_it_resumes(database: Database, moment: str) -> None:
    seed(database.dsn, 500)
    async with engine(database, reference(), chunk_rows=20) as made:
        if moment == "backfill":
            copying = asyncio.create_task(made.running.backfill())
            await until(lambda: _some_chunks(database.dsn), every=0)
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)
        else:
            await made.backfill()
        execute(database.dsn, ["UPDATE requests SET status = 'failed' WHERE id < 'r3'"])
        await made.stop()
        execute(database.dsn, ["DELETE FROM requests WHERE id > 'r4'"])
        await made.start()
        await made.backfill()
        await made.drain()
        assert await differences(made) == []


async def _some_chunks(dsn: str) -> bool:
    async with await psycopg.AsyncConnection.connect(dsn) as target:
        cursor = await target.execute("SELECT count(*) FROM _replicator.chunks WHERE done_at IS NOT NULL")
        row = await cursor.fetchone()
        return bool(row and row[0])
