"""What a stream takes from the connection, and when: on a connection that plays what libpq would do."""

import struct
from typing import Any, cast

import psycopg
import pytest

from replicator.errors import ConnectionLostError, ProtocolError
from replicator.postgres.session.connect import Connection
from replicator.postgres.wire import replication
from replicator.postgres.wire.replication import Frame, ReplicationStream, XLogData


class FakePgconn:
    """Gives out messages; each read of the socket brings the next arrival: some messages, or an error."""

    def __init__(self, *arrivals: list[bytes] | Exception) -> None:
        self.arrivals = list(arrivals)
        self.here: list[bytes] = []

    def get_copy_data(self, _: int) -> tuple[int, memoryview]:
        if not self.here:
            return 0, memoryview(b"")
        message = self.here.pop(0)
        return len(message) or -1, memoryview(message)

    def consume_input(self) -> None:
        arrival = self.arrivals.pop(0) if self.arrivals else []
        if isinstance(arrival, Exception):
            raise arrival
        self.here += arrival


class FakeConnection:
    def __init__(self, *arrivals: list[bytes] | Exception) -> None:
        self.pgconn = FakePgconn(*arrivals)


END = b""


def stream_of(*arrivals: list[bytes] | Exception) -> ReplicationStream:
    return ReplicationStream(cast("Connection", FakeConnection(*arrivals)), "s")


def data(payload: bytes) -> bytes:
    return b"w" + struct.pack(">QQq", 1, 2, 3) + payload


def payloads(frames: list[Frame]) -> list[bytes]:
    return [frame.payload for frame in frames if isinstance(frame, XLogData)]


async def test_all_that_one_read_brings_is_handed_over_and_what_the_next_brings_too() -> None:
    stream = stream_of([data(b"a"), data(b"b")], [data(b"c")], [], [data(b"d")])
    assert payloads(stream._take()) == [b"a", b"b", b"c"]
    assert payloads(stream._take()) == [b"d"]


async def test_a_batch_ends_at_its_bound_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "BATCH_BYTES", 100)
    stream = stream_of([data(b"x" * 60), data(b"y" * 60), data(b"z")])
    assert payloads(stream._take()) == [b"x" * 60, b"y" * 60]
    assert payloads(stream._take()) == [b"z"]


async def test_what_came_before_a_failure_is_handed_over_first() -> None:
    frames = stream_of([data(b"a")], psycopg.OperationalError("server closed the connection")).frames()
    assert payloads(await anext(frames)) == [b"a"]
    with pytest.raises(ConnectionLostError, match="server closed the connection"):
        await anext(frames)


async def test_what_came_before_the_end_is_handed_over_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ended(_: Any) -> ConnectionLostError:
        return ConnectionLostError("over")

    monkeypatch.setattr(ReplicationStream, "_end", ended)
    frames = stream_of([data(b"a"), END]).frames()
    assert payloads(await anext(frames)) == [b"a"]
    with pytest.raises(ConnectionLostError, match="over"):
        await anext(frames)


async def test_a_message_of_no_known_kind_stops_the_stream() -> None:
    with pytest.raises(ProtocolError):
        stream_of([b"x"])._take()
