"""The wal2json decoder, on hand-made documents, on what servers sent, and on bytes that no server sends."""

import json
import string
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.core.changes import Begin, Change, Commit, Event, Message, Origin, RelationName
from replicator.core.lsn import parse_lsn
from replicator.errors import ProtocolError
from replicator.follow.wal2json import Wal2JsonDecoder
from tests.fixtures.history import captured
from tests.unit.streams import damaged, decode_all, expected_history, is_sound, transactions

CAPTURED = captured("pg15-wal2json")

AT = "2026-11-22 09:23:43.123456+00"
MOMENT = datetime(2026, 11, 22, 9, 23, 43, 123456, tzinfo=UTC)
HEAD = {"xid": 1234, "timestamp": AT, "lsn": "0/1A0D7B8", "schema": "public", "table": "requests"}


def decode(document: object) -> Event:
    return decode_text(json.dumps(document, ensure_ascii=False))


def decode_text(text: str) -> Event:
    (event,) = Wal2JsonDecoder([("public", None)]).decode(text.encode())
    return event


def columns(**values: object) -> list[dict[str, object]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def test_an_origin_is_told_by_its_number() -> None:
    begin = {"action": "B", **HEAD, "origin": 3}
    assert Wal2JsonDecoder([("public", None)]).decode(json.dumps(begin).encode()) == [Begin(1234, MOMENT), Origin("3")]
    assert decode({"action": "B", **HEAD, "origin": 0}) == Begin(1234, MOMENT)


# ---- the options


def test_the_plugin_is_asked_for_what_the_decoder_needs() -> None:
    options = dict(Wal2JsonDecoder([("public", "requests"), ("other", None)]).options())
    assert options == {
        "format-version": "2",
        "include-transaction": "true",
        "include-xids": "true",
        "include-timestamp": "true",
        "include-lsn": "true",
        "include-origin": "true",
        "include-types": "false",
        "add-tables": "public.requests,other.*",
        "add-msg-prefixes": "replicator",
    }


def test_special_characters_of_names_are_escaped() -> None:
    options = dict(Wal2JsonDecoder([("Sch ema.1", "a,b*'\"\\\n_ü")]).options())
    assert options["add-tables"] == "Sch\\ ema\\.1.a\\,b\\*\\'\\\"\\\\\\\n_ü"


def test_a_table_named_star_is_not_taken_for_the_whole_schema() -> None:
    assert dict(Wal2JsonDecoder([("public", "*")]).options())["add-tables"] == "public.\\*"


def test_nulls_are_ambiguous_unless_numbers_come_as_text() -> None:
    old, new = Wal2JsonDecoder([("public", None)]), Wal2JsonDecoder([("public", None)], numbers_as_text=True)
    assert old.nulls_are_ambiguous
    assert not new.nulls_are_ambiguous
    assert ("numeric-data-types-as-string", "true") in new.options()


# ---- one document of each kind


def test_begin() -> None:
    assert decode({"action": "B", "xid": 4_294_967_295, "timestamp": AT, "lsn": "0/1", "nextlsn": "0/2"}) == Begin(
        4_294_967_295, MOMENT
    )


def test_commit_carries_the_end_position_not_its_own() -> None:
    document = {"action": "C", "xid": 1, "timestamp": AT, "lsn": "16/B374D848", "nextlsn": "16/B374D880"}
    assert decode(document) == Commit(parse_lsn("16/B374D880"), MOMENT)


@pytest.mark.parametrize(
    "text, moment",
    [
        ("2026-11-22 09:23:43+00", datetime(2026, 11, 22, 9, 23, 43, tzinfo=UTC)),
        ("2026-11-22 09:23:43.1+00", datetime(2026, 11, 22, 9, 23, 43, 100_000, tzinfo=UTC)),
        ("2026-11-22 14:53:43.12345+05:30", datetime(2026, 11, 22, 9, 23, 43, 123450, tzinfo=UTC)),
    ],
)
def test_moments_are_in_utc(text: str, moment: datetime) -> None:
    begin = decode({"action": "B", "xid": 1, "timestamp": text})
    assert isinstance(begin, Begin)
    assert begin.committed_at == moment
    assert begin.committed_at.tzinfo is UTC


def test_insert() -> None:
    document = {"action": "I", **HEAD, "columns": columns(id="a", n=None, yes=True, no=False)}
    assert decode(document) == Change(
        RelationName("public", "requests"), "insert", {"id": "a", "n": None, "yes": "t", "no": "f"}
    )


@pytest.mark.parametrize(
    "digits",
    ["0", "-0", "12.50", "1e+308", "-1.5e-07", "9" * 5000, "0." + "1234567890" * 100, "1E400", "123456789012345678901"],
)
def test_numbers_keep_their_digits(digits: str) -> None:
    head = json.dumps({"action": "I", **HEAD})[:-1]
    change = decode_text(f'{head}, "columns": [{{"name": "n", "value": {digits}}}]}}')
    assert change == Change(RelationName("public", "requests"), "insert", {"n": digits})


def test_update_without_change_of_identity_has_no_old_row() -> None:
    document = {"action": "U", **HEAD, "columns": columns(id="a", n=1), "identity": columns(id="a")}
    assert decode(document) == Change(RelationName("public", "requests"), "update", {"id": "a", "n": "1"})


def test_update_of_the_identity_has_the_old_one() -> None:
    document = {"action": "U", **HEAD, "columns": columns(id="b", n=1), "identity": columns(id="a")}
    assert decode(document) == Change(RelationName("public", "requests"), "update", {"id": "b", "n": "1"}, {"id": "a"})


def test_update_with_full_identity_keeps_what_the_new_row_leaves_out() -> None:
    document = {"action": "U", **HEAD, "columns": columns(id="a"), "identity": columns(id="a", doc="long")}
    assert decode(document) == Change(
        RelationName("public", "requests"), "update", {"id": "a"}, {"id": "a", "doc": "long"}
    )


def test_delete() -> None:
    document = {"action": "D", **HEAD, "identity": columns(id="a")}
    assert decode(document) == Change(RelationName("public", "requests"), "delete", None, {"id": "a"})


def test_truncate() -> None:
    assert decode({"action": "T", **HEAD}) == Change(RelationName("public", "requests"), "truncate")


def test_message() -> None:
    document = {"action": "M", "xid": None, "transactional": False, "prefix": "replicator", "content": "drained ü"}
    assert decode(document) == Message("replicator", "drained ü".encode(), False)


# ---- what is refused


GOOD_INSERT = {"action": "I", **HEAD, "columns": columns(id="a")}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"I"',
        "{}",
        '{"action":"X"}',
        '{"action":["I"]}',
        json.dumps(GOOD_INSERT) + "{}",
        " " + json.dumps(GOOD_INSERT),
        json.dumps({"action": "B", "timestamp": AT}),
        json.dumps({"action": "B", "xid": "9" * 5000, "timestamp": AT}),
        json.dumps({"action": "B", "xid": 1 << 32, "timestamp": AT}),
        json.dumps({"action": "B", "xid": -1, "timestamp": AT}),
        json.dumps({"action": "B", "xid": 1, "timestamp": "2026-11-22 09:23:43"}),
        json.dumps({"action": "B", "xid": 1, "timestamp": "0001-01-01 00:00:00+05"}),
        json.dumps({"action": "C", "timestamp": AT, "lsn": "0/1"}),
        json.dumps({"action": "C", "timestamp": AT, "nextlsn": "10000000000000000/0"}),
        json.dumps({"action": "C", "timestamp": AT, "nextlsn": "-1/0"}),
        json.dumps({"action": "D", **HEAD}),
        json.dumps({"action": "U", **HEAD, "columns": columns(id="a")}),
        json.dumps({"action": "T", "schema": None, "table": "t"}),
        json.dumps({"action": "M", "prefix": "p", "content": "c", "transactional": "t"}),
        json.dumps({"action": "M", "prefix": "p", "content": None, "transactional": True}),
        json.dumps(GOOD_INSERT | {"columns": "abc"}),
        json.dumps(GOOD_INSERT | {"columns": {"name": "id", "value": "a"}}),
        json.dumps(GOOD_INSERT | {"columns": [{"name": "id"}]}),
        json.dumps(GOOD_INSERT | {"columns": [{"name": None, "value": "a"}]}),
        json.dumps(GOOD_INSERT | {"columns": [{"name": True, "value": "a"}]}),
        json.dumps(GOOD_INSERT | {"columns": columns(id=["a"])}),
        json.dumps(GOOD_INSERT | {"columns": columns(id={"a": "b"})}),
        json.dumps(GOOD_INSERT | {"columns": columns(id=float("nan"))}),
        json.dumps(GOOD_INSERT | {"columns": columns(id="\ud800")}),  # an escaped half of a pair: no text of Postgres'
        json.dumps(GOOD_INSERT | {"columns": columns(**{"\udfff": "a"})}),
        "[" * 200_000,
        '{"a":' * 200_000,
    ],
)
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        decode_text(text)


def test_bytes_that_are_no_utf8_are_refused() -> None:
    payload = json.dumps(GOOD_INSERT, separators=(",", ":")).encode().replace(b'"a"', b'"\xff"')
    with pytest.raises(ProtocolError, match="kind I"):
        Wal2JsonDecoder([("public", None)]).decode(payload)


def test_escapes_that_only_look_like_half_a_pair_are_read() -> None:
    change = decode(GOOD_INSERT | {"columns": columns(id="\\ud800 \\uD800")})
    assert change == Change(RelationName("public", "requests"), "insert", {"id": "\\ud800 \\uD800"})


def test_a_refusal_names_the_kind_and_no_value() -> None:
    document = json.dumps({"action": "I", **HEAD, "columns": columns(password="hunter2")}, separators=(",", ":"))
    with pytest.raises(ProtocolError) as refused:
        decode_text(document[:-1])
    assert "kind I" in refused.value.problem
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    assert refused.value.remedy


# ---- what servers sent


def test_the_history_decodes_to_its_changes() -> None:
    events = decode_all(Wal2JsonDecoder([("app", None)]), CAPTURED)
    assert transactions(events) == expected_history("wal2json")


# ---- what no server sends

names = st.text(st.sampled_from('name"value:,{}[]\\ ü\n') | st.characters(codec="utf-8"), max_size=12)
scalars = names | st.booleans() | st.none() | st.integers()


@settings(deadline=None)
@given(st.dictionaries(names, scalars), st.sampled_from([json.dumps, lambda it: json.dumps(it, ensure_ascii=False)]))
def test_any_row_comes_out_as_it_went_in(row: dict[str, Any], dumps: Any) -> None:
    change = decode_text(dumps({"action": "I", **HEAD, "columns": columns(**row)}))
    assert change == Change(
        RelationName("public", "requests"), "insert", {name: as_text(value) for name, value in row.items()}
    )


def as_text(value: str | bool | int | None) -> str | None:
    if isinstance(value, bool):
        return "t" if value else "f"
    return None if value is None else str(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "value", "x"]), inner),
    max_leaves=8,
)
fields = ["action", "xid", "timestamp", "lsn", "nextlsn", "schema", "table", "columns", "identity", "prefix", "content"]


@settings(deadline=None)
@given(st.sampled_from("BCIUDTM"), st.dictionaries(st.sampled_from([*fields, "transactional"]), json_values))
def test_a_document_of_any_shape_is_decoded_or_refused(action: str, changed: dict[str, object]) -> None:
    good = {"action": action, **HEAD, "nextlsn": "0/1", "columns": columns(id="a"), "identity": columns(id="a")}
    good |= {"prefix": "replicator", "content": "", "transactional": True}
    is_sound_or_refused(json.dumps(good | changed).encode())


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_decoded_or_refused(payload: bytes) -> None:
    is_sound_or_refused(payload)


@settings(deadline=None)
@given(damaged(CAPTURED))
def test_damaged_messages_are_decoded_or_refused(payload: bytes) -> None:
    is_sound_or_refused(payload)


def is_sound_or_refused(payload: bytes) -> None:
    try:
        events = Wal2JsonDecoder([("public", None)]).decode(payload)
    except ProtocolError:
        return
    assert all(map(is_sound, events))
