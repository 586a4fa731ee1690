"""The replication stream against real servers: everything arrives, once, in order, whatever is done to the reader."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from replicator.core.changes import Change, Commit, Event, Message
from replicator.core.lsn import LSN, ZERO, parse_lsn
from replicator.demo.embedded import Cluster, StopMode
from replicator.errors import CheckError, ConnectionLostError, DefinitionError, ReplicatorError, SlotError
from replicator.follow.decoder import Decoder
from replicator.follow.pgoutput import PgoutputDecoder
from replicator.follow.wal2json import Wal2JsonDecoder
from replicator.postgres.wire import replication
from replicator.postgres.wire.replication import Frame, Keepalive, ReplicationStream, XLogData, identify_system
from tests.fix_postgres import Database, MakeCluster, Server
from tests.fixtures.capture import decoder_for, read_history, run_history
from tests.fixtures.history import CAPTURED, captured
from tests.unit.streams import decode_all, expected_history, transactions
from tests.waiting import until

pytestmark = pytest.mark.every_server

SECONDS = 30.0

END = Message("replicator", b"end", True)

Connection = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def _no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket alone must wake the reader: the timer behind it would hide it if it did not."""
    monkeypatch.setattr(replication, "LOOK_AGAIN_SECONDS", 3600.0)


@pytest.fixture
def own_cluster(make_cluster: MakeCluster, server: Server) -> Cluster:
    """A server to break. Once for each version: the plugin makes no difference here."""
    if server.plugin != "pgoutput":
        pytest.skip("the same as with pgoutput")
    return make_cluster(max_slot_wal_keep_size="1MB")


# ---- what the tests are told in


def decoder(database: Database) -> Decoder:
    return Wal2JsonDecoder([("public", None)]) if database.plugin == "wal2json" else PgoutputDecoder(["p"])


def prepare(connection: Connection, plugin: str) -> None:
    connection.execute("CREATE TABLE t (id integer PRIMARY KEY, doc text)")
    connection.execute("ALTER TABLE t ALTER doc SET STORAGE EXTERNAL")
    connection.execute("CREATE PUBLICATION p FOR TABLE t")
    connection.execute("SELECT pg_create_logical_replication_slot('s', %s)", [plugin])


def end(connection: Connection) -> None:
    connection.execute("SELECT pg_logical_emit_message(true, 'replicator', 'end')")


@asynccontextmanager
async def streaming(database: Database, start: LSN = ZERO) -> AsyncIterator[ReplicationStream]:
    stream = await ReplicationStream.start(database.dsn, "s", start, decoder(database).options())
    try:
        yield stream
    finally:
        await stream.close()


async def read_to_end(stream: ReplicationStream, database: Database) -> list[Event]:
    """Everything up to the commit of the message `end`."""
    decoding = decoder(database)
    events: list[Event] = []
    async with asyncio.timeout(SECONDS):
        async for frames in stream.frames():
            events += decode_all(decoding, payloads(frames))
            if END in events and isinstance(events[-1], Commit):
                return events
    raise AssertionError("the stream ended")


def payloads(frames: Sequence[Frame]) -> list[bytes]:
    return [frame.payload for frame in frames if isinstance(frame, XLogData)]


async def read(stream: ReplicationStream) -> None:
    """Read and forget, up to the end or an error."""
    async with asyncio.timeout(SECONDS):
        async for _ in stream.frames():
            pass


async def waiting_reader(stream: ReplicationStream) -> "asyncio.Task[list[Frame]]":
    """A task that has read all there is and waits for what is not there yet."""
    while True:
        reading = asyncio.create_task(next_frames(stream))
        while not reading.done():
            if stream._waiting is not None:
                return reading
            await asyncio.sleep(0)


async def next_frames(stream: ReplicationStream) -> list[Frame]:
    """The next batch; an empty one at the end."""
    return await anext(stream.frames(), [])


def one(connection: Connection, query: str, *parameters: object) -> Any:
    row = connection.execute(query.encode(), parameters or None).fetchone()
    return row[0] if row else None


def walsender(connection: Connection) -> int | None:
    pid = one(connection, "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 's'")
    return pid if pid is None else int(pid)


def ids(events: Sequence[Event]) -> list[int]:
    return [int(str(event.new["id"])) for event in events if isinstance(event, Change) and event.new]


def decoder_kinds(database: Database, sent: Sequence[bytes]) -> list[type[Event]]:
    return [type(event) for event in decode_all(decoder_for(database.plugin), sent)]


def is_writing(stream: ReplicationStream) -> bool:
    return stream._writing_to is not None


def nothing_is_registered(stream: ReplicationStream) -> bool:
    fd = stream._pgconn.socket
    loop = asyncio.get_running_loop()
    return not loop.remove_reader(fd) and not loop.remove_writer(fd)


# ---- what arrives


async def test_the_history_arrives_as_it_was_captured(database: Database) -> None:
    run_history(database)
    sent = await read_history(database)
    assert transactions(decode_all(decoder_for(database.plugin), sent)) == expected_history(database.plugin)
    if database.server.id in CAPTURED:
        kinds = [decoder_kinds(database, each) for each in (sent, captured(database.server.id))]
        assert kinds[0] == kinds[1]


async def test_values_print_the_same_whatever_the_database_is_set_to(database: Database) -> None:
    run_history(database)
    with database.connect() as connection:
        for setting in (
            "datestyle = 'SQL, DMY'",
            "intervalstyle = 'sql_standard'",
            "extra_float_digits = -15",
            "timezone = 'Asia/Kolkata'",
            "bytea_output = 'escape'",
            "statement_timeout = '1ms'",
        ):
            connection.execute(f"ALTER DATABASE {database.name} SET {setting}".encode())
    events = decode_all(decoder_for(database.plugin), await read_history(database))
    assert transactions(events) == expected_history(database.plugin)


async def test_a_value_larger_than_any_buffer_arrives_whole(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        connection.execute("INSERT INTO t VALUES (1, repeat('0123456789', 2000000))")
        end(connection)
        async with streaming(database) as stream:
            events = await read_to_end(stream, database)
    (change,) = [event for event in events if isinstance(event, Change)]
    assert change.new == {"id": "1", "doc": "0123456789" * 2_000_000}


async def test_frames_come_by_the_batch_and_batches_are_bounded(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        connection.execute("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) n")
        end(connection)
        sizes, counts = [], []
        decoding = decoder(database)
        async with streaming(database) as stream, asyncio.timeout(SECONDS):
            async for frames in stream.frames():
                counts.append(len(frames))
                sizes.append(sum(map(len, payloads(frames))))
                if END in decode_all(decoding, payloads(frames)):
                    break
    assert max(sizes) < replication.BATCH_BYTES + 2000
    assert sum(counts) > 5000
    assert max(counts) > 10


class DeafLoop:
    """An event loop that never says that a socket is readable."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.create_future, self.call_later = loop.create_future, loop.call_later

    def add_reader(self, *_: object) -> None: ...

    def remove_reader(self, *_: object) -> None: ...


async def test_bytes_that_an_encrypted_socket_does_not_tell_of_are_found(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "LOOK_AGAIN_SECONDS", 0.01)
    with database.connect() as connection:
        prepare(connection, database.plugin)
        async with streaming(database) as stream:
            monkeypatch.setattr(stream, "_loop", DeafLoop(stream._loop))
            reading = asyncio.create_task(read_to_end(stream, database))
            await until(lambda: stream._waiting is not None)
            connection.execute("INSERT INTO t VALUES (1, 'x')")
            end(connection)
            assert ids(await reading) == [1]


# ---- the status


async def test_what_is_confirmed_becomes_the_slots_position(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        end(connection)
        async with streaming(database) as stream:
            commit = (await read_to_end(stream, database))[-1]
            assert isinstance(commit, Commit)
            stream.send_status(LSN(commit.end_lsn + 8), commit.end_lsn)
            confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 's'"
            await until(lambda: parse_lsn(one(connection, confirmed)) == commit.end_lsn)
            pid = walsender(connection)
            seen = [
                parse_lsn(one(connection, f"SELECT {column}::text FROM pg_stat_replication WHERE pid = %s", pid))
                for column in ("write_lsn", "flush_lsn", "replay_lsn")
            ]
    assert seen == [commit.end_lsn + 8, commit.end_lsn, commit.end_lsn]


async def test_a_reply_that_is_asked_for_comes(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        async with streaming(database) as stream, asyncio.timeout(SECONDS):
            flushed = parse_lsn(one(connection, "SELECT pg_current_wal_flush_lsn()::text"))
            reached = ZERO
            while reached < flushed:
                stream.send_status(ZERO, ZERO, reply=True)
                frames = await anext(stream.frames())
                reached = max([frame.end for frame in frames if isinstance(frame, Keepalive)], default=reached)


async def test_status_gets_through_while_nobody_reads_and_nothing_is_read_meanwhile(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        start = parse_lsn(one(connection, "SELECT pg_current_wal_lsn()::text"))
        connection.execute("INSERT INTO t SELECT n, repeat('x', 100000) FROM generate_series(1, 400) n")
        end(connection)
        waits = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        async with streaming(database) as stream:
            # The server has filled all buffers between us, and waits for room in them.
            await until(lambda: one(connection, waits, walsender(connection)) == "WalSenderWriteData")
            stream.send_status(start, start)
            flushed = "SELECT flush_lsn::text FROM pg_stat_replication WHERE pid = %s"
            await until(lambda: one(connection, flushed, walsender(connection)) not in (None, "0/0"))
            assert parse_lsn(one(connection, flushed, walsender(connection))) == start
            assert one(connection, waits, walsender(connection)) == "WalSenderWriteData"
            assert ids(await read_to_end(stream, database)) == list(range(1, 401))


async def test_what_the_socket_does_not_take_follows_by_itself(database: Database, server_cluster: Cluster) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        end(connection)
        async with streaming(database) as stream:
            commit = (await read_to_end(stream, database))[-1]
            assert isinstance(commit, Commit)
            pid = walsender(connection)
            assert pid is not None
            assert server_cluster.running  # so the process is ours to stop
            os.kill(pid, signal.SIGSTOP)
            try:
                deadline = time.monotonic() + SECONDS
                while not is_writing(stream):
                    stream.send_status(ZERO, ZERO)
                    assert time.monotonic() < deadline
                stream.send_status(commit.end_lsn, commit.end_lsn)
            finally:
                os.kill(pid, signal.SIGCONT)
            confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 's'"
            await until(lambda: parse_lsn(one(connection, confirmed)) == commit.end_lsn)
            assert not is_writing(stream)
            assert nothing_is_registered(stream)


# ---- cancelling and closing


async def test_a_cancelled_reader_breaks_nothing(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        async with streaming(database) as stream:
            pid = walsender(connection)
            for _ in range(3):
                reading = await waiting_reader(stream)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                assert nothing_is_registered(stream)
            connection.execute("INSERT INTO t VALUES (1, 'x')")
            end(connection)
            assert ids(await read_to_end(stream, database)) == [1]
            assert walsender(connection) == pid


async def test_no_frame_is_lost_or_doubled_by_cancelling_at_any_point(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        connection.execute("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) n")
        end(connection)
        events: list[Event] = []
        decoding = decoder(database)
        cancelled = 0
        async with streaming(database) as stream, asyncio.timeout(SECONDS):
            while END not in events:
                reading = asyncio.create_task(next_frames(stream))
                for _ in range(cancelled % 4):
                    await asyncio.sleep(0)
                reading.cancel()
                try:
                    frames = await reading
                except asyncio.CancelledError:
                    cancelled += 1
                    continue
                events += decode_all(decoding, payloads(frames))
    assert cancelled > 10
    assert ids(events) == list(range(1, 5001))


async def test_closing_ends_the_iteration_of_a_waiting_reader(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        async with streaming(database) as stream:
            reading = await waiting_reader(stream)
            fd = stream._pgconn.socket
            await stream.close()
            async with asyncio.timeout(SECONDS):
                assert await reading == []
            loop = asyncio.get_running_loop()
            assert not loop.remove_reader(fd)
            assert not loop.remove_writer(fd)
            await stream.close()
            with pytest.raises(ConnectionLostError):
                stream.send_status(ZERO, ZERO)
            assert [frames async for frames in stream.frames()] == []
            await until(lambda: walsender(connection) is None)


async def test_a_reader_that_comes_to_its_end_late_takes_no_one_elses_place(database: Database) -> None:
    """After close, the socket's number may be a new connection's: its reader must stay."""
    with database.connect() as connection:
        prepare(connection, database.plugin)
        async with streaming(database) as stream:
            reading = await waiting_reader(stream)
            fd = stream._pgconn.socket
            await stream.close()
            theirs, other = os.pipe()
            moved = theirs if theirs == fd else os.dup2(theirs, fd)
            loop = asyncio.get_running_loop()
            loop.add_reader(moved, lambda: None)
            assert await reading == []
            assert loop.remove_reader(moved)
            for each in {theirs, other, moved}:
                os.close(each)


# ---- how it ends


async def test_a_terminated_walsender_is_a_lost_connection(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        connection.execute("INSERT INTO t VALUES (1, 'x')")
        end(connection)
        async with streaming(database) as stream:
            assert ids(await read_to_end(stream, database)) == [1]
            connection.execute("SELECT pg_terminate_backend(%s)", [walsender(connection)])
            for _ in range(2):  # again and again, rather than to hang
                with pytest.raises(ConnectionLostError, match="administrator command"):
                    await read(stream)
        async with streaming(database) as stream:  # nothing was confirmed: it comes again
            assert ids(await read_to_end(stream, database)) == [1]


async def test_a_server_that_stops_is_a_lost_connection(own_cluster: Cluster) -> None:
    with psycopg.connect(own_cluster.dsn(), autocommit=True) as connection:
        prepare(connection, "pgoutput")
    modes: tuple[StopMode, ...] = ("fast", "immediate")
    for how in modes:
        own_cluster.start()
        stream = await ReplicationStream.start(own_cluster.dsn(), "s", ZERO, PgoutputDecoder(["p"]).options())
        confirming = asyncio.create_task(confirm_all(stream))
        await asyncio.to_thread(own_cluster.stop, how)
        with pytest.raises(ConnectionLostError) as raised:
            await confirming
        assert raised.value.transient
        with pytest.raises(ConnectionLostError):
            stream.send_status(ZERO, ZERO)
        await stream.close()


async def confirm_all(stream: ReplicationStream) -> None:
    async for frames in stream.frames():
        for frame in frames:
            if isinstance(frame, Keepalive):  # a fast stop waits until all is confirmed
                stream.send_status(frame.end, frame.end)


async def test_a_slot_that_is_not_there(database: Database) -> None:
    with pytest.raises(SlotError, match='"s" does not exist') as raised:
        await ReplicationStream.start(database.dsn, "s", ZERO, decoder(database).options())
    assert raised.value.remedy


async def test_a_slot_that_is_in_use_may_come_free(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        async with streaming(database):
            with pytest.raises(ConnectionLostError, match="in use") as raised:
                await ReplicationStream.start(database.dsn, "s", ZERO, decoder(database).options())
            assert raised.value.transient
        await until(lambda: walsender(connection) is None)
        async with streaming(database):
            pass


async def test_a_slot_of_another_database(database: Database, other_database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
    with pytest.raises(SlotError, match="not created in this database"):
        await ReplicationStream.start(other_database.dsn, "s", ZERO, decoder(database).options())


async def test_a_slot_whose_wal_is_gone(own_cluster: Cluster) -> None:
    with psycopg.connect(own_cluster.dsn(), autocommit=True) as connection:
        prepare(connection, "pgoutput")
        for _ in range(4):
            connection.execute("SELECT pg_switch_wal(), txid_current()")
            connection.execute("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t")
        connection.execute("CHECKPOINT")
        assert one(connection, "SELECT wal_status FROM pg_replication_slots") == "lost"
    with pytest.raises(SlotError, match="invalidated") as raised:
        await ReplicationStream.start(own_cluster.dsn(), "s", ZERO, PgoutputDecoder(["p"]).options())
    assert raised.value.remedy


async def test_an_option_that_the_plugin_does_not_know(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
    with pytest.raises(ReplicatorError, match="no-such-option"):
        await ReplicationStream.start(database.dsn, "s", ZERO, [*decoder(database).options(), ("no-such-option", "1")])


async def test_a_plugin_that_is_not_allowed(own_cluster: Cluster) -> None:
    with psycopg.connect(own_cluster.dsn(), autocommit=True) as connection:
        if not one(connection, "SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'"):
            pytest.skip("this server allows every plugin")
        prepare(connection, "pgoutput")
        connection.execute("ALTER SYSTEM SET output_plugin_libraries = wal2json")
        connection.execute("SELECT pg_reload_conf()")
        await until(lambda: one(connection, "SHOW output_plugin_libraries") == "wal2json")
    with pytest.raises(CheckError, match="may not be used") as raised:
        await ReplicationStream.start(own_cluster.dsn(), "s", ZERO, PgoutputDecoder(["p"]).options())
    assert "output_plugin_libraries" in raised.value.remedy


async def test_an_address_where_nobody_answers() -> None:
    with pytest.raises(ConnectionLostError):
        await ReplicationStream.start("host=127.0.0.1 port=1 dbname=x", "s", ZERO, [])
    with pytest.raises(ReplicatorError) as raised:
        await ReplicationStream.start("no dsn at all, hunter2", "s", ZERO, [])
    assert "hunter2" not in str(raised.value)


# ---- changes that the server leaves out


async def test_a_change_without_identity_stops_the_stream(database: Database) -> None:
    if database.plugin != "wal2json":
        pytest.skip("with pgoutput the statement itself fails")
    with database.connect() as connection:
        connection.execute(f"ALTER DATABASE {database.name} SET client_min_messages = 'error'".encode())
        prepare(connection, database.plugin)
        connection.execute("CREATE TABLE keyless (n integer)")
        connection.execute("INSERT INTO keyless VALUES (1)")
        connection.execute("UPDATE keyless SET n = 2")
        end(connection)
        async with streaming(database) as stream:
            delivered: list[Event] = []

            async def deliver() -> None:
                async for frames in stream.frames():
                    delivered.extend(decode_all(decoder(database), payloads(frames)))

            with pytest.raises(DefinitionError, match=re.escape('UPDATE in table "public"."keyless"')) as raised:
                await asyncio.wait_for(deliver(), SECONDS)
        assert raised.value.remedy
        # Nothing that followed the hole was handed over, so that nothing behind it can be confirmed.
        assert END not in delivered
        assert not any(isinstance(event, Change) and event.operation == "update" for event in delivered)


async def test_a_change_without_identity_of_a_table_that_is_not_followed_is_no_matter(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        connection.execute("CREATE SCHEMA elsewhere")
        connection.execute("CREATE TABLE elsewhere.keyless AS SELECT 1 AS n")
        connection.execute("UPDATE elsewhere.keyless SET n = 2")
        connection.execute("DELETE FROM elsewhere.keyless")
        end(connection)
        async with streaming(database) as stream:
            events = await read_to_end(stream, database)
    assert [event for event in events if isinstance(event, Change)] == []


async def test_a_publication_that_is_gone_stops_the_stream(database: Database) -> None:
    if database.plugin != "pgoutput":
        pytest.skip("wal2json needs no publication")
    with database.connect() as connection:
        prepare(connection, database.plugin)
        connection.execute("DROP PUBLICATION p")
        connection.execute("INSERT INTO t VALUES (1, 'x')")
        async with streaming(database) as stream:
            with pytest.raises(DefinitionError, match='"p"') as raised:
                await read(stream)
    assert raised.value.remedy


# ---- who the server is


async def test_the_system_is_identified(database: Database) -> None:
    with database.connect() as connection:
        expected = one(connection, "SELECT system_identifier::text FROM pg_control_system()")
        timeline = one(connection, "SELECT timeline_id FROM pg_control_checkpoint()")
        before = parse_lsn(one(connection, "SELECT pg_current_wal_flush_lsn()::text"))
        identity = await identify_system(database.dsn)
        after = parse_lsn(one(connection, "SELECT pg_current_wal_flush_lsn()::text"))
    assert (identity.system_id, identity.timeline) == (expected, timeline)
    assert before <= identity.flushed <= after


async def test_the_stream_is_named_and_keeps_the_options_of_the_dsn(database: Database) -> None:
    with database.connect() as connection:
        prepare(connection, database.plugin)
        async with streaming(database):
            name = "SELECT application_name FROM pg_stat_replication WHERE pid = %s"
            assert one(connection, name, walsender(connection)) == "replicator stream"
    dsn = make_conninfo(database.dsn, options="-c no_such_setting=1")
    with pytest.raises(ReplicatorError, match="no_such_setting"):
        await ReplicationStream.start(dsn, "s", ZERO, decoder(database).options())
