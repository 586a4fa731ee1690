"""Bytes that no server sends, to all that reads the stream: read or refused, at once, in little memory."""

import json
import struct
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replicator.errors import ProtocolError
from replicator.follow.wal2json import Wal2JsonDecoder
from tests import pgoutput_bytes as pg
from tests.fixtures.history import captured
from tests.fuzz.targets import TARGETS, is_bounded, joined, messages
from tests.unit.streams import damaged

FED = settings(deadline=None, max_examples=150)

PGOUTPUT = TARGETS["pgoutput"].feed
WAL2JSON = TARGETS["wal2json"].feed
FRAMES = TARGETS["frames"].feed

# ---- pgoutput: lengths and counts that lie

counts = st.sampled_from([0, 1, 2, 3, 255, 0x7FFF, 0xFFFF]) | st.integers(0, 0xFFFF)
lengths = st.sampled_from([0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF)
ids = st.sampled_from([0, 1, 7, 0xFFFFFFFF])
texts = st.binary(max_size=6)
values = st.one_of(
    st.sampled_from([b"n", b"u", b"b", b"t"]),
    st.builds(lambda length, text: b"t" + struct.pack(">I", length) + text, lengths, texts),
    texts.map(lambda text: b"t" + struct.pack(">I", len(text)) + text),
)
rows = st.builds(lambda count, cells: struct.pack(">H", count) + b"".join(cells), counts, st.lists(values, max_size=5))
relations = st.builds(
    lambda oid, names, kind, count, columns: (
        b"R" + struct.pack(">I", oid) + names + kind + struct.pack(">H", count) + b"".join(columns)
    ),
    ids,
    st.sampled_from([b"a\0b\0", b"\0\0", b"a\0", b"a", b"\xff\0b\0"]),
    st.sampled_from([b"d", b"f", b"n", b"i", b"?"]),
    counts,
    st.lists(texts.map(lambda name: b"\1" + name.replace(b"\0", b"") + b"\0" + bytes(8)), max_size=4),
)
changes = st.builds(
    lambda kind, oid, marked: kind + struct.pack(">I", oid) + b"".join(marker + row for marker, row in marked),
    st.sampled_from([b"I", b"U", b"D"]),
    ids,
    st.lists(st.tuples(st.sampled_from([b"N", b"K", b"O", b"x"]), rows), max_size=3),
)
truncates = st.builds(
    lambda count, oids: b"T" + struct.pack(">IB", count, 0) + b"".join(struct.pack(">I", oid) for oid in oids),
    lengths,
    st.lists(ids, max_size=4),
)
sent = st.builds(
    lambda flags, prefix, length, content: (
        b"M" + bytes([flags]) + bytes(8) + prefix + struct.pack(">I", length) + content
    ),
    st.integers(0, 255),
    st.sampled_from([b"replicator\0", b"\0", b"", b"\xff\0"]),
    lengths,
    texts,
)
moments = st.builds(
    lambda kind, first, second, clock: kind + struct.pack(">QQq", first, second, clock),
    st.sampled_from([b"B", b"C\0"]),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
pgoutput_streams = st.lists(st.one_of(relations, changes, truncates, sent, moments), max_size=8)


@FED
@given(pgoutput_streams)
@example([b"T" + struct.pack(">IB", 0xFFFFFFFF, 0)])
@example([b"M\0" + bytes(8) + b"p\0" + struct.pack(">I", 0xFFFFFFFF)])
@example([pg.relation(1, "a", "b", [("c", True)]), b"I" + struct.pack(">IcHcI", 1, b"N", 1, b"t", 0xFFFFFFFF)])
def test_pgoutput_with_lengths_that_lie(payloads: list[bytes]) -> None:
    assert is_bounded(PGOUTPUT, joined(payloads))


def test_a_row_of_many_nulls_takes_memory_in_proportion() -> None:
    columns = [(f"column_{number:05}", False) for number in range(4_000)]
    wide = pg.relation(1, "a", "b", columns)
    row = pg.insert(1, [None] * len(columns))
    assert is_bounded(PGOUTPUT, joined([wide[:0xFFFF], row]))


# ---- wal2json: documents of any depth and length

leaves: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(
        ["null", "true", "NaN", "-Infinity", "1e999999999", "-0", "{}", "[]", '""', '"\\ud800"', '"\\u0000"']
    ),
    st.integers(1, 20_000).map(lambda digits: "9" * digits),
    st.integers(1, 20_000).map(lambda digits: "0." + "9" * digits),
    st.text(max_size=5).map(json.dumps),
)
depths = st.sampled_from([1, 2, 50, 900, 1_100, 50_000])
nested = st.builds(
    lambda depth, leaf, pair: pair[0] * depth + leaf + pair[1] * depth,
    depths,
    leaves,
    st.sampled_from([("[", "]"), ('{"a":', "}"), ('[{"name":', "}]")]),
)
fields = st.sampled_from(
    ["action", "xid", "timestamp", "lsn", "nextlsn", "schema", "table", "columns", "identity", "prefix", "content"]
)
good = {
    "action": '"U"', "xid": "7", "timestamp": '"2026-11-22 09:23:43+00"', "nextlsn": '"0/1"', "schema": '"a"',
    "table": '"b"', "columns": '[{"name":"id","value":1}]', "identity": '[{"name":"id","value":2}]', "prefix": '"p"',
    "content": '"c"', "transactional": "true",
}  # fmt: skip


@FED
@given(st.sampled_from("BCIUDTM"), st.dictionaries(fields, leaves | nested, max_size=3))
@example("B", {"xid": "9" * 100_000})
@example("C", {"nextlsn": '"0/' + "F" * 100_000 + '"'})
@example("B", {"timestamp": '"' + "2" * 100_000 + '"'})
def test_wal2json_with_documents_of_any_depth(action: str, changed: dict[str, str]) -> None:
    document = good | {"action": f'"{action}"'} | changed
    text = "{" + ",".join(f'"{name}":{value}' for name, value in document.items()) + "}"
    assert is_bounded(WAL2JSON, text.encode())


@pytest.mark.parametrize("piece", ["[],", "{},", '"",', "null,", '{"name":"a"},', '{"name":"a","value":"b"},', "1,"])
def test_wal2json_with_many_small_things(piece: str) -> None:
    columns = "[" + piece * 20_000 + "null]"
    document = '{"action":"I","schema":"a","table":"b","columns":' + columns + "}"
    assert is_bounded(WAL2JSON, document.encode())


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":['])
def test_wal2json_nested_beyond_what_python_can_follow(opening: str) -> None:
    with pytest.raises(ProtocolError):
        Wal2JsonDecoder([("public", None)]).decode(opening.encode() * 300_000)


# ---- what servers sent, damaged, below the frames too


@FED
@given(st.lists(damaged(captured("pg18-pgoutput")), max_size=4))
def test_pgoutput_damaged(payloads: list[bytes]) -> None:
    definitions = [each for each in captured("pg18-pgoutput") if each[:1] == b"R"]
    assert is_bounded(PGOUTPUT, joined([*definitions, *payloads]))


@FED
@given(damaged(captured("pg15-wal2json")))
def test_wal2json_damaged(payload: bytes) -> None:
    assert is_bounded(WAL2JSON, payload)


@FED
@given(damaged([b"w" + bytes(24) + b"payload", b"k" + bytes(17)]))
def test_frames_damaged(message: bytes) -> None:
    assert is_bounded(FRAMES, message)


@given(st.lists(st.binary(max_size=20)))
def test_messages_come_apart_as_they_were_joined(payloads: list[Any]) -> None:
    assert list(messages(joined(payloads))) == payloads
