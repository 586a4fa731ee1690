"""A read that is interrupted ends with the time-out that has done it; what fails in a worker is told as it is."""

import asyncio
import socket
from pathlib import Path

import pytest

from replicator.backfill.copier import Copier
from replicator.errors import ConnectionLostError
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.wire.snapshots import Visibility, read_point
from tests.engine import Engine, create_old_tables, execute, make_settings, reference
from tests.fix_postgres import Database

pytestmark = pytest.mark.one_server

SLOW = b"COPY (SELECT pg_sleep(3600)) TO STDOUT"


async def read_until_time_is_up(opened: Connection) -> None:
    async with (
        asyncio.timeout(0.2),
        read_point(opened, Visibility()),
        opened.cursor() as cursor,
        cursor.copy(SLOW) as rows,
    ):
        await rows.read()


async def test_a_time_out_is_a_time_out_whatever_it_interrupts(database: Database) -> None:
    async with connection(database.dsn, "interrupted") as opened:
        with pytest.raises(TimeoutError):
            await read_until_time_is_up(opened)


async def test_a_worker_that_loses_its_connection_says_so(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_old_tables(database.dsn)
    execute(database.dsn, ["INSERT INTO settings (key, value) VALUES ('one', '1')"])

    async def lost(*_: object) -> int:
        raise ConnectionLostError("The connection failed.")

    monkeypatch.setattr(Copier, "copy", lost)
    made = Engine(make_settings(database), reference())
    await made.set_up()
    await made.start()
    try:
        with pytest.raises(ConnectionLostError):
            await made.running.backfill()
    finally:
        await made.stop()


async def test_a_number_that_a_closed_socket_has_left_with_the_loop(database: Database) -> None:
    loop, (one_end, other_end) = asyncio.get_running_loop(), socket.socketpair()
    number = one_end.fileno()
    loop.add_reader(number, lambda: None)
    one_end.close()
    try:
        async with connection(database.dsn, "test") as opened:
            assert opened.fileno() >= 0
            assert (await (await opened.execute("SELECT 1")).fetchone()) == (1,)
    finally:
        other_end.close()
        loop.remove_reader(number)
