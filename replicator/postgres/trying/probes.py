"""Trying a query of the application's: how long it takes, and how the server goes about it. Nothing can be written."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from replicator.postgres.session.connect import Connection, translated

LIMIT = "60s"
"""A probe that takes longer is none that an application runs often."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """EXPLAIN's document, and what matters of it: the kinds of nodes with what they read, and blocks of 8 kB."""

    document: Any
    nodes: tuple[str, ...]
    buffers: int
    rows: int


@asynccontextmanager
async def _reading(connection: Connection) -> AsyncIterator[None]:
    """A read-only transaction that is rolled back."""
    with translated():
        async with connection.transaction(force_rollback=True):
            await connection.execute("SET TRANSACTION READ ONLY")
            await connection.execute(f"SET LOCAL statement_timeout = '{LIMIT}'".encode())
            yield


async def time_query(connection: Connection, query: str) -> float:
    """Run a query and fetch its rows; gives milliseconds, as the client sees them."""
    async with _reading(connection):
        began = time.perf_counter()
        cursor = await connection.execute(query.encode())
        await cursor.fetchall()
        return (time.perf_counter() - began) * 1000


async def explain(connection: Connection, query: str) -> Plan:
    """Run a query under EXPLAIN. Postgres refuses what is no query here."""
    async with _reading(connection):
        cursor = await connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}".encode())
        row = await cursor.fetchone()
    document = row[0] if row else [{}]
    root = document[0].get("Plan", {})
    return Plan(
        document=document,
        nodes=tuple(_nodes(root)),
        buffers=sum(int(root.get(name, 0)) for name in ("Shared Hit Blocks", "Shared Read Blocks")),
        rows=int(root.get("Actual Rows", 0)),
    )


async def without_statistics(connection: Connection, schema: str) -> Sequence[str]:
    """Tables of a schema that hold rows, and were never analyzed: plans for them are guesses."""
    with translated():
        cursor = await connection.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND c.relkind = 'r' AND c.reltuples < 0 AND pg_relation_size(c.oid) > 0 ORDER BY 1",
            (schema,),
        )
        return [row[0] for row in await cursor.fetchall()]


def _nodes(plan: dict[str, Any]) -> list[str]:
    """``Index Scan using requests_status_idx on requests``, top down."""
    index, table = plan.get("Index Name"), plan.get("Relation Name")
    name = f"{plan.get('Node Type', '?')}{f' using {index}' if index else ''}{f' on {table}' if table else ''}"
    return [name, *(each for inner in plan.get("Plans", ()) for each in _nodes(inner))]
