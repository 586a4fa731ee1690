"""The server goes away under the daemon, and comes back: the daemon waits, and goes on where it was."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from replicator.daemon import daemon
from replicator.settings import Settings
from tests.engine import execute, make_settings, reference
from tests.fix_postgres import MakeCluster, Server
from tests.reference import seed
from tests.waiting import running, until

pytestmark = pytest.mark.two_servers

PLAYED = "SELECT count(*) FROM party.requests WHERE status = 'played'"


async def shows(dsn: str, query: str, wanted: Any, task: "asyncio.Future[Any]") -> None:
    """Wait until a query returns this; a server that is away is waited for."""

    async def there() -> bool:
        with contextlib.suppress(psycopg.Error):
            async with await psycopg.AsyncConnection.connect(dsn) as opened:
                return await (await opened.execute(query.encode())).fetchone() == (wanted,)
        return False

    await until(there, alive=running(task))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_the_server_restarts(server: Server, make_cluster: MakeCluster, mode: Any) -> None:
    cluster = make_cluster()
    database = SimpleNamespace(dsn=cluster.dsn(), plugin=server.plugin)
    seed(database.dsn)
    settings: Settings = make_settings(database)  # type: ignore[arg-type]
    stop = asyncio.Event()
    task = asyncio.create_task(daemon.run(settings, reference(), stop=stop))
    await shows(database.dsn, "SELECT phase FROM _replicator.state", "follow", task)
    execute(database.dsn, ["UPDATE requests SET status = 'played' WHERE id = 'r1'"])
    await shows(database.dsn, PLAYED, 1, task)
    await asyncio.to_thread(cluster.restart, mode)
    execute(database.dsn, ["UPDATE requests SET status = 'played' WHERE id IN ('r2', 'r3')"])
    await shows(database.dsn, PLAYED, 3, task)
    stop.set()
    await task
