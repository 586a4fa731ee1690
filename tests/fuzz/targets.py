"""What is fed with bytes that no server sends, and what must hold whatever they are.

They are read, or refused with a ProtocolError: no other exception, no hang, and no more memory than so many times their
size.
"""

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from replicator.errors import ProtocolError
from replicator.follow.pgoutput import PgoutputDecoder
from replicator.follow.wal2json import Wal2JsonDecoder
from replicator.postgres.wire.frames import Keepalive, XLogData, parse_frame
from tests.fixtures.history import CAPTURED, captured
from tests.unit.streams import is_sound

TIMES: Final = 200
"""Bytes of memory that a byte of input may take: one byte that says NULL becomes a name's place in a dict."""
BESIDES: Final = 64 << 10


@dataclass(frozen=True)
class Target:
    """Something to be fed. ``feed`` raises when it does not hold."""

    feed: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def feed_pgoutput(data: bytes) -> None:
    """Several messages, each behind its length in two bytes, to one decoder: it remembers relations."""
    decoder = PgoutputDecoder(["p"])
    for payload in messages(data):
        try:
            events = decoder.decode(payload)
        except ProtocolError:
            continue
        if not all(map(is_sound, events)):
            raise AssertionError(events)


def feed_wal2json(data: bytes) -> None:
    """One message."""
    try:
        events = Wal2JsonDecoder([("public", None)]).decode(data)
    except ProtocolError:
        return
    if not all(map(is_sound, events)):
        raise AssertionError(events)


def feed_frames(data: bytes) -> None:
    """One message of the walsender."""
    try:
        frame = parse_frame(data)
    except ProtocolError:
        return
    if isinstance(frame, XLogData) and not data.endswith(frame.payload):
        raise AssertionError(frame)
    if isinstance(frame, Keepalive) and len(data) != 18:
        raise AssertionError(frame)


def messages(data: bytes) -> Iterator[bytes]:
    """The messages in what ``joined`` has made, or in any bytes."""
    at = 0
    while at + 2 <= len(data):
        length = int.from_bytes(data[at : at + 2])
        yield data[at + 2 : at + 2 + length]
        at += 2 + length


def joined(payloads: list[bytes]) -> bytes:
    """Messages, each behind its length; those that are too long for it are left out."""
    return b"".join(len(each).to_bytes(2) + each for each in payloads if len(each) < 1 << 16)


def _pgoutput_seeds() -> list[bytes]:
    payloads = captured(next(name for name in CAPTURED if "pgoutput" in name))
    definitions = {each[1:5]: each for each in payloads if each[:1] == b"R"}
    rows = [joined([definitions[each[1:5]], each]) for each in payloads if each[:1] in (b"I", b"U", b"D")]
    return [joined([each]) for each in payloads] + rows


def _wal2json_seeds() -> list[bytes]:
    return captured("pg15-wal2json")


def _frames_seeds() -> list[bytes]:
    return [b"w" + bytes(24) + each for each in _wal2json_seeds()[:5]] + [b"k" + bytes(17)]


TARGETS: Final = {
    "pgoutput": Target(feed_pgoutput, _pgoutput_seeds),
    "wal2json": Target(feed_wal2json, _wal2json_seeds),
    "frames": Target(feed_frames, _frames_seeds),
}


def most_memory(feed: Callable[[bytes], None], data: bytes) -> int:
    """How many bytes were in use at most while it was fed."""
    tracemalloc.start()
    try:
        feed(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def is_bounded(feed: Callable[[bytes], None], data: bytes) -> bool:
    """Whether that is in proportion to what it was fed with; another thread may have spoilt a measurement or two."""
    return any(most_memory(feed, data) <= BESIDES + TIMES * len(data) for _ in range(3))
