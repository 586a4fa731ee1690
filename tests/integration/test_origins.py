"""Replication origins: none of ours stays behind."""

import asyncio

import pytest

from replicator import Migration
from replicator.postgres.control.control import install
from replicator.postgres.session.connect import connection
from replicator.postgres.wire.origins import create_origin, drop_origin, write_plainly, write_under
from tests.fix_postgres import Database
from tests.statements import one
from tests.waiting import until

pytestmark = pytest.mark.two_servers


async def test_an_origin_that_is_still_held_is_waited_for(database: Database) -> None:
    """The server notices late that the session which wrote under it has ended."""
    name = f"replicator_{database.name}"
    async with connection(database.dsn, "test") as dropping, connection(database.dsn, "test") as holding:
        await install(holding, Migration("any", old="public", new="store"))
        await create_origin(holding, name)
        await write_under(holding, name)
        tried = (
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE '%origin_drop%' "
            f"AND pid = {dropping.info.backend_pid}"
        )
        drop = asyncio.create_task(drop_origin(dropping, name))
        await until(lambda: one(database.dsn, tried))
        await write_plainly(holding)
        await drop
        assert one(database.dsn, f"SELECT count(*) FROM pg_replication_origin WHERE roname = '{name}'") == 0
