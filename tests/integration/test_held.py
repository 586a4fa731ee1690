"""Several tasks read on the connection of a move, whose transaction none of them may end."""

import asyncio

import pytest
from psycopg.pq import TransactionStatus

from replicator.postgres.catalog.fingerprints import read_definitions
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.session.held import hold
from replicator.postgres.wire.snapshots import Visibility, read_point
from tests.engine import execute
from tests.fix_postgres import Database
from tests.waiting import until

pytestmark = pytest.mark.one_server


async def sleeping(opened: Connection) -> "asyncio.Task[None]":
    """A statement of another task that runs; until it has ended, the connection is active."""

    async def sleep() -> None:
        await opened.execute("SELECT pg_catalog.pg_sleep(0.3)::text")

    task = asyncio.create_task(sleep())
    await until(lambda: opened.info.transaction_status == TransactionStatus.ACTIVE, every=0)
    return task


async def test_who_reads_meanwhile_does_not_end_the_transaction(database: Database) -> None:
    execute(database.dsn, ["CREATE TABLE t (id integer PRIMARY KEY)"])
    async with connection(database.dsn, "holder", text=True) as holder:
        await holder.execute("BEGIN")
        await holder.execute("CREATE TABLE public.of_the_move (id integer PRIMARY KEY)")
        hold(holder)
        task = await sleeping(holder)
        async with read_point(holder, Visibility()):
            await holder.execute("SELECT 1")
        await task
        task = await sleeping(holder)
        assert set(await read_definitions(holder, "public", ["t", "of_the_move"], "")) == {"t", "of_the_move"}
        await task
        assert holder.info.transaction_status == TransactionStatus.INTRANS
        await holder.execute("ROLLBACK")
        assert set(await read_definitions(holder, "public", ["t", "of_the_move"], "")) == {"t"}


async def test_one_after_the_other(database: Database) -> None:
    """Savepoints of two tasks that cross would end each other."""
    async with connection(database.dsn, "holder", text=True) as holder:
        await holder.execute("BEGIN")
        hold(holder)

        async def read(name: str) -> None:
            async with read_point(holder, Visibility()):
                await holder.execute(f"SAVEPOINT {name}".encode())
                await holder.execute("SELECT 1")
                await asyncio.sleep(0)
                await holder.execute(f"RELEASE SAVEPOINT {name}".encode())

        await asyncio.gather(*(read(f"s{number}") for number in range(4)))
        await holder.execute("ROLLBACK")
