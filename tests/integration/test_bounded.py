"""Bounded in bytes and in time: what is in memory at once, and what keeps the stream from being served."""

import asyncio
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration, Row
from replicator.follow.decoder import MESSAGE_PREFIX
from tests.engine import create_old_tables, differences, engine, execute, reference
from tests.fix_postgres import Database

MEGABYTE = 1 << 20


@contextmanager
def allocated(limit: int) -> Iterator[None]:
    """Never more than so many bytes of Python's objects at a time, beyond what there was."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / MEGABYTE:.0f} MB"


def documents(folder: Path, function: Any) -> Migration:
    """One table to one, through a function."""
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(
        "CREATE SCHEMA IF NOT EXISTS store; CREATE TABLE IF NOT EXISTS store.docs (id integer PRIMARY KEY, body text);"
    )
    migration = Migration("docs", old="public", new="store", sql=folder)
    migration.transform(source="docs", into="docs", key=lambda row: row["id"])(function)
    return migration


def copied(old: Row) -> dict[str, Any]:
    return dict(old)


def one(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return (connection.execute(query.encode()).fetchone() or (None,))[0]


# ---- messages that anyone may emit


@pytest.mark.parametrize("prefix", [MESSAGE_PREFIX, "other"])
async def test_large_messages_cost_nothing(database: Database, prefix: str) -> None:
    create_old_tables(database.dsn)
    async with engine(database, reference()) as made:
        await made.backfill()
        with allocated(40 * MEGABYTE):
            execute(
                database.dsn,
                [f"SELECT pg_logical_emit_message(true, '{prefix}', repeat('x', 4000000)) FROM generate_series(1, 25)"],
            )
            await made.drain()


# ---- the stream is served whatever the rest does


@pytest.mark.two_servers
@pytest.mark.parametrize(("rows", "seconds"), [(1, 3.0), (100, 0.03)], ids=["one long call", "many short ones"])
async def test_a_transform_slower_than_the_servers_patience(
    database: Database, tmp_path: Path, rows: int, seconds: float
) -> None:
    """Nothing reads the stream meanwhile, and the server ends it if it hears nothing: the pipeline would fail."""
    execute(
        database.dsn,
        [
            "CREATE TABLE docs (id integer PRIMARY KEY, body text)",
            f"ALTER DATABASE {database.name} SET wal_sender_timeout = '1s'",
        ],
    )
    going_on: list[bool] = []

    def slow(old: Row) -> dict[str, Any]:
        going_on.append(others.is_set())
        time.sleep(seconds)
        loop.call_soon(others.set)
        return dict(old)

    loop, others = asyncio.get_running_loop(), asyncio.Event()
    async with engine(database, documents(tmp_path, slow)) as made:
        await made.backfill()
        execute(database.dsn, [f"INSERT INTO docs SELECT i, 'x' FROM generate_series(1, {rows}) i"])
        await made.drain()
        assert await differences(made) == []
        assert one(database.dsn, "SELECT count(*) FROM store.docs") == rows
    assert rows == 1 or going_on[:rows] == [False, *[True] * (rows - 1)], "other tasks waited for the last row"


async def test_a_slow_transform_lets_other_tasks_go_on_while_rows_are_copied(
    database: Database, tmp_path: Path
) -> None:
    execute(
        database.dsn,
        [
            "CREATE TABLE docs (id integer PRIMARY KEY, body text)",
            "INSERT INTO docs VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        ],
    )
    going_on: list[bool] = []

    def slow(old: Row) -> dict[str, Any]:
        going_on.append(others.is_set())
        time.sleep(0.03)
        loop.call_soon(others.set)
        return dict(old)

    loop, others = asyncio.get_running_loop(), asyncio.Event()
    async with engine(database, documents(tmp_path, slow)) as made:
        await made.backfill()
    assert going_on == [False, True, True]
