"""The messages of the replication protocol, and the command that opens it."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.core.lsn import LSN
from replicator.errors import ProtocolError
from replicator.postgres.wire.frames import Keepalive, XLogData, parse_frame, status_update
from replicator.postgres.wire.walsender import start_command

DATA = b"w" + struct.pack(">QQq", 0x16_B374D848, 0x16_B374D880, 848_654_623_123_456)
ALIVE = b"k" + struct.pack(">QqB", 0x16_B374D848, 848_654_623_123_456, 1)


def test_data_has_the_plugins_bytes_and_both_positions() -> None:
    assert parse_frame(DATA + b"B\0\xff") == XLogData(LSN(0x16_B374D848), LSN(0x16_B374D880), b"B\0\xff")


def test_data_may_be_empty() -> None:
    assert parse_frame(DATA) == XLogData(LSN(0x16_B374D848), LSN(0x16_B374D880), b"")


@pytest.mark.parametrize("asked", [True, False])
def test_keepalive_says_whether_it_wants_a_reply(asked: bool) -> None:
    assert parse_frame(ALIVE[:-1] + bytes([asked])) == Keepalive(LSN(0x16_B374D848), asked)


@pytest.mark.parametrize("message", [b"", b"w", DATA[:-1], b"k", ALIVE[:-1], ALIVE + b"\0", b"p" + bytes(30), b"r"])
def test_anything_else_is_refused(message: bytes) -> None:
    with pytest.raises(ProtocolError) as refused:
        parse_frame(message)
    assert refused.value.remedy


def test_a_refusal_holds_no_data() -> None:
    with pytest.raises(ProtocolError) as refused:
        parse_frame(b"x" + b"hunter2")
    assert "hunter2" not in str(refused.value)


@settings(deadline=None)
@given(st.sampled_from([b"", b"w", b"k"]), st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(kind: bytes, rest: bytes) -> None:
    try:
        frame = parse_frame(kind + rest)
    except ProtocolError:
        return
    assert isinstance(frame, XLogData | Keepalive)


@pytest.mark.parametrize("reply", [True, False])
def test_status_says_written_flushed_and_applied(reply: bool) -> None:
    kind, written, flushed, applied, clock, asks = struct.unpack(
        ">cQQQqB", status_update(LSN(3), LSN(2), 1_000_000, reply=reply)
    )
    assert (kind, written, flushed, applied, clock, asks) == (b"r", 3, 2, 2, 1_000_000, reply)


def test_the_command_quotes_names_and_values_by_doubling() -> None:
    command = start_command('a"b', LSN(0x16_B374D848), [("add-tables", "it's\\.x"), ("format-version", "2")])
    assert command.decode() == (
        'START_REPLICATION SLOT "a""b" LOGICAL 16/B374D848 ("add-tables" \'it\'\'s\\.x\', "format-version" \'2\')'
    )
