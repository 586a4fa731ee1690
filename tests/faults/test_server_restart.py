"""The server goes away under the daemon, and comes back: the daemon waits, and goes on where it was."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from replicator.daemon import daemon
from replicator.settings import Settings
from tests.engine import SECONDS, execute, make_settings, reference
from tests.fix_postgres import MakeCluster, Server
from tests.reference import seed

pytestmark = pytest.mark.two_servers

PLAYED = "SELECT count(*) FROM party.requests WHERE status = 'played'"


async def until(dsn: str, query: str, wanted: Any, task: asyncio.Task[None]) -> None:
    """Wait until a query gives this; a server that is away is waited for."""
    async with asyncio.timeout(SECONDS):
        while True:
            with contextlib.suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(dsn) as opened:
                    row = await (await opened.execute(query.encode())).fetchone()
                    if row == (wanted,):
                        return
            if task.done():
                task.result()
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_the_server_restarts(server: Server, make_cluster: MakeCluster, mode: Any) -> None:
    cluster = make_cluster()
    database = SimpleNamespace(dsn=cluster.dsn(), plugin=server.plugin)
    seed(database.dsn)
    settings: Settings = make_settings(database)  # type: ignore[arg-type]
    stop = asyncio.Event()
    task = asyncio.create_task(daemon.run(settings, reference(), stop=stop))
    await until(database.dsn, "SELECT phase FROM _replicator.state", "follow", task)
    execute(database.dsn, ["UPDATE requests SET status = 'played' WHERE id = 'r1'"])
    await until(database.dsn, PLAYED, 1, task)
    await asyncio.to_thread(cluster.restart, mode)
    execute(database.dsn, ["UPDATE requests SET status = 'played' WHERE id IN ('r2', 'r3')"])
    await until(database.dsn, PLAYED, 3, task)
    stop.set()
    await task
