"""The pgoutput decoder, on hand-made messages, on what servers sent, and on bytes that no server sends."""

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.core.changes import (
    Begin,
    Change,
    Commit,
    Event,
    Image,
    Message,
    Origin,
    RelationDefinition,
    RelationName,
)
from replicator.core.lsn import LSN
from replicator.errors import ProtocolError
from replicator.follow.pgoutput import PgoutputDecoder
from replicator.values import Missing
from tests import pgoutput_bytes as pg
from tests.fixtures.history import CAPTURED, captured
from tests.unit.streams import damaged, decode_all, expected_history, is_sound, transactions

STREAMS = [name for name in CAPTURED if "pgoutput" in name]

ITEMS = pg.relation(7, "public", "items", [("id", True), ("doc", False), ("n", False)])
PAIRS = pg.relation(8, "public", "pairs", [("n", False), ("b", True), ("a", True)])
WHOLE = pg.relation(9, "public", "whole", [("id", True), ("n", True)], identity=b"f")


def decode(payload: bytes) -> list[Event]:
    decoder = PgoutputDecoder(["p"])
    for described in (ITEMS, PAIRS, WHOLE):
        decoder.decode(described)
    return decoder.decode(payload)


# ---- the options


def test_the_plugin_is_asked_for_what_the_decoder_needs() -> None:
    assert dict(PgoutputDecoder(["replicator"]).options()) == {
        "proto_version": "1",
        "publication_names": '"replicator"',
        "messages": "true",
    }


def test_publication_names_are_a_list_of_quoted_identifiers() -> None:
    options = dict(PgoutputDecoder(['A "b", c', "d"]).options())
    assert options["publication_names"] == '"A ""b"", c","d"'


def test_nulls_are_nulls() -> None:
    assert not PgoutputDecoder(["p"]).nulls_are_ambiguous


# ---- one message of each kind


def test_begin() -> None:
    (event,) = decode(pg.begin(0x16_B374D848, 848_654_623_123_456, 4_294_967_295))
    assert event == Begin(4_294_967_295, datetime(2026, 11, 22, 9, 23, 43, 123456, tzinfo=UTC))


def test_commit_carries_the_end_position_not_its_own() -> None:
    (event,) = decode(pg.commit(0x16_B374D848, 0x16_B374D880, -1))
    assert event == Commit(LSN(0x16_B374D880), datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


def test_relation() -> None:
    definition = pg.relation(7, "Public", "It's", [("id", True), ("ü n", False)])
    assert decode(definition) == [
        RelationDefinition(RelationName("Public", "It's"), (("id", 25), ("ü n", 25)), ("id",))
    ]


def test_an_empty_schema_is_the_catalogue() -> None:
    assert decode(pg.relation(7, "", "pg_class", [])) == [
        RelationDefinition(RelationName("pg_catalog", "pg_class"), (), ())
    ]


def test_insert() -> None:
    new: Image = {"id": "1", "doc": "ü€😀", "n": None}
    assert decode(pg.insert(7, ["1", "ü€😀", None])) == [Change(RelationName("public", "items"), "insert", new)]


def test_an_empty_text_is_not_null() -> None:
    assert decode(pg.insert(7, ["1", "", ""])) == [
        Change(RelationName("public", "items"), "insert", {"id": "1", "doc": "", "n": ""})
    ]


def test_update_leaves_an_unchanged_value_marked() -> None:
    new: Image = {"id": "1", "doc": Missing.UNCHANGED, "n": "2"}
    assert decode(pg.update(7, ["1", Missing.UNCHANGED, "2"])) == [
        Change(RelationName("public", "items"), "update", new)
    ]


def test_update_of_the_key_has_only_the_key_of_the_old_row() -> None:
    changes = decode(pg.update(8, ["1", "c", "a"], [None, "b", "a"], b"K"))
    new: Image = {"n": "1", "b": "c", "a": "a"}
    assert changes == [Change(RelationName("public", "pairs"), "update", new, {"b": "b", "a": "a"})]


def test_update_with_full_identity_has_the_whole_old_row() -> None:
    changes = decode(pg.update(9, ["1", "2"], ["1", None], b"O"))
    assert changes == [Change(RelationName("public", "whole"), "update", {"id": "1", "n": "2"}, {"id": "1", "n": None})]


def test_delete_has_only_the_key() -> None:
    assert decode(pg.delete(7, ["1", None, None])) == [
        Change(RelationName("public", "items"), "delete", None, {"id": "1"})
    ]


def test_delete_with_full_identity_has_the_whole_row() -> None:
    assert decode(pg.delete(9, ["1", None], b"O")) == [
        Change(RelationName("public", "whole"), "delete", None, {"id": "1", "n": None})
    ]


def test_truncate_of_several_is_a_change_of_each() -> None:
    assert decode(pg.truncate([8, 7], flags=3)) == [
        Change(RelationName("public", "pairs"), "truncate"),
        Change(RelationName("public", "items"), "truncate"),
    ]


@pytest.mark.parametrize("transactional", [True, False])
def test_message(transactional: bool) -> None:
    assert decode(pg.message(transactional, 1, "replicator", b"\0\xff")) == [
        Message("replicator", b"\0\xff", transactional)
    ]


def test_an_origin_is_told_by_its_name() -> None:
    assert PgoutputDecoder(["p"]).decode(b"O" + struct.pack(">Q", 1) + b"origin\0") == [Origin("origin")]


def test_the_name_of_a_type_is_no_event() -> None:
    assert PgoutputDecoder(["p"]).decode(b"Y" + struct.pack(">I", 1) + b"a\0b\0") == []


def test_a_relation_that_is_described_again_replaces_what_was_known() -> None:
    decoder = PgoutputDecoder(["p"])
    decoder.decode(ITEMS)
    decoder.decode(pg.relation(7, "public", "renamed", [("id", True), ("extra", False)]))
    assert decoder.decode(pg.insert(7, ["1", "x"])) == [
        Change(RelationName("public", "renamed"), "insert", {"id": "1", "extra": "x"})
    ]


def test_a_new_stream_knows_no_relation() -> None:
    PgoutputDecoder(["p"]).decode(ITEMS)
    with pytest.raises(ProtocolError):
        PgoutputDecoder(["p"]).decode(pg.insert(7, ["1", "", ""]))


# ---- what is refused

GOOD = [
    pg.begin(1, 1, 1),
    pg.commit(1, 2, 1),
    ITEMS,
    pg.insert(7, ["1", None, "x"]),
    pg.update(8, ["1", "c", "a"], [None, "b", "a"], b"K"),
    pg.delete(7, ["1", None, None]),
    pg.truncate([7, 8]),
    pg.message(1, 1, "replicator", b"content"),
]


@pytest.mark.parametrize("payload", GOOD, ids=lambda payload: chr(payload[0]))
def test_every_truncated_or_overlong_message_is_refused(payload: bytes) -> None:
    decode(payload)
    for wrong in [payload[:length] for length in range(len(payload))] + [payload + b"\0"]:
        with pytest.raises(ProtocolError):
            decode(wrong)


@pytest.mark.parametrize(
    "payload",
    [
        pg.insert(99, ["1", None, None]),
        pg.truncate([99]),
        pg.insert(7, ["1"]),
        pg.insert(7, ["1", None, None, None]),
        pg.insert(7, ["1", None, None]).replace(b"N\0\3", b"N\0\4"),
        pg.insert(7, ["1", None, None]).replace(b"N", b"K", 1),
        pg.insert(7, ["1", None, "x"]).replace(b"t", b"b", 1),  # a binary value: not asked for
        pg.update(7, ["1", None, None], ["1", None, None], b"N"),
        pg.update(7, ["1", None, None], ["1", None, None], b"K").replace(b"N", b"O"),
        pg.delete(7, ["1", None, None], b"N"),
        pg.begin(1, 1 << 62, 1),  # the year 148,000
        b"S\0\0\0\1\1",  # parts of protocols 2 to 4
        b"E",
        b"P" + bytes(40),
        b"\xff",
        b"I" + struct.pack(">IcH", 7, b"N", 3) + b"t\xff\xff\xff\xff",
        b"T\xff\xff\xff\xff\0",
        b"R" + struct.pack(">I", 7) + b"a\0b\0d\xff\xff",
    ],
)
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(payload)


@pytest.mark.parametrize("payload", [pg.insert(7, ["1", "?", "?"]), pg.message(1, 1, "?", b"")])
def test_text_that_is_no_utf8_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(payload.replace(b"?", b"\xff"))


@pytest.mark.parametrize("payload, said", [(b"", "empty"), (b"x", "'x'"), (b"\xff", r"'\\xff'"), (b"I", "'I'")])
def test_a_refusal_names_the_kind(payload: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said) as refused:
        decode(payload)
    assert refused.value.remedy


def test_a_refusal_holds_no_value() -> None:
    with pytest.raises(ProtocolError) as refused:
        decode(pg.insert(7, ["1", "hunter2", None])[:-1])
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


# ---- what servers sent


@pytest.mark.parametrize("name", STREAMS)
def test_the_history_decodes_to_its_changes(name: str) -> None:
    events = decode_all(PgoutputDecoder(["p"]), captured(name))
    assert transactions(events) == expected_history("pgoutput")


def test_every_relation_is_described_before_its_first_change() -> None:
    described: dict[tuple[str, str], set[str]] = {}
    for event in decode_all(PgoutputDecoder(["p"]), captured(STREAMS[0])):
        if isinstance(event, RelationDefinition):
            described[event.relation] = {name for name, _ in event.columns}
        elif isinstance(event, Change) and event.new:
            assert event.new.keys() == described[event.relation]
    assert described["app", "items"] >= {"id", "extra"}


# ---- what no server sends

MESSAGES = [payload for name in STREAMS for payload in captured(name)]
DEFINITIONS = [payload for payload in MESSAGES if payload[0] == ord("R")]


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_decoded_or_refused(payload: bytes) -> None:
    is_sound_or_refused(payload)


@settings(deadline=None)
@given(st.sampled_from(b"BCIUDTRMOY"), st.binary())
def test_any_bytes_behind_a_known_kind_are_decoded_or_refused(kind: int, rest: bytes) -> None:
    is_sound_or_refused(bytes([kind]) + rest)


@settings(deadline=None)
@given(damaged(MESSAGES), damaged(MESSAGES))
def test_damaged_messages_are_decoded_or_refused(first: bytes, second: bytes) -> None:
    is_sound_or_refused(first, second)


def is_sound_or_refused(*payloads: bytes) -> None:
    decoder = PgoutputDecoder(["p"])
    for payload in (*DEFINITIONS, *payloads):
        try:
            events = decoder.decode(payload)
        except ProtocolError:
            continue
        assert all(map(is_sound, events))
