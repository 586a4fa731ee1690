"""The messages of Postgres' streaming replication protocol: bytes to frames, and the status that goes back."""

import struct
from dataclasses import dataclass
from typing import Final

from replicator.core.lsn import LSN
from replicator.errors import ProtocolError

_XLOG_DATA: Final = struct.Struct(">xQQq")
_KEEPALIVE: Final = struct.Struct(">xQqB")
_STATUS: Final = struct.Struct(">cQQQqB")


@dataclass(slots=True, frozen=True)
class XLogData:
    """One message of the output plugin. Neither position says what may be confirmed: the plugin's commit does."""

    start: LSN
    end: LSN
    payload: bytes


@dataclass(slots=True, frozen=True)
class Keepalive:
    """The server has read its log up to ``end`` and sent all that it found."""

    end: LSN
    reply_requested: bool


Frame = XLogData | Keepalive


def parse_frame(message: bytes | memoryview) -> Frame:
    """Read one message of the stream; what it carries is copied once, for it may be large. Raises ProtocolError."""
    try:
        if message[:1] == b"w":
            start, end, _ = _XLOG_DATA.unpack_from(message)
            return XLogData(LSN(start), LSN(end), bytes(message[_XLOG_DATA.size :]))
        if message[:1] == b"k":
            end, _, reply = _KEEPALIVE.unpack(message)
            # A server that gets no reply ends the connection (wal_sender_timeout). mutation: keepalive-reply
            return Keepalive(LSN(end), reply != 0)
    except struct.error:
        pass
    raise ProtocolError(
        f"The replication stream carried a message of kind {bytes(message[:1])!r}, {len(message)} bytes long, that is "
        "not part of the protocol.",
        "Check that nothing but Postgres answers at the source's address.",
    )


def status_update(written: LSN, flushed: LSN, microseconds: int, *, reply: bool) -> bytes:
    """Say how far we are.

    :param microseconds: the clock, since 2000-01-01 UTC.
    :param reply: ask the server to answer at once.
    """
    return _STATUS.pack(b"r", written, flushed, flushed, microseconds, reply)
