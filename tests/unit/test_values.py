"""Values on their way in and out."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator import as_array, as_datetime, as_json, as_uuid
from replicator.values import PARSERS, Kind, canonical, to_text


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("boolean", "t", True),
        ("boolean", "f", False),
        ("integer", "-9223372036854775808", -(2**63)),
        ("numeric", "1.50", Decimal("1.50")),
        ("numeric", "NaN", Decimal("NaN")),
        ("bytea", "\\x00ff", b"\x00\xff"),
        ("bytea", "00ff", b"\x00\xff"),
        ("text", "infinity", "infinity"),
        ("json", '{"a":1,"a":2}', '{"a":1,"a":2}'),
    ],
)
def test_text_becomes_a_value(kind: Kind, text: str, value: object) -> None:
    found = PARSERS[kind](text)
    assert (found, type(found)) == (value, type(value)) or found != found  # noqa: PLR0124  NaN


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "json", None),
        (True, "boolean", "t"),
        (False, "json", "false"),
        (float("inf"), "float", "Infinity"),
        (float("-inf"), "float", "-Infinity"),
        (float("nan"), "float", "NaN"),
        (0.1, "float", "0.1"),
        (Decimal("1E+400"), "numeric", "1E+400"),
        (b"\x00\xff", "bytea", "\\x00ff"),
        ({"a": [1, "ü", None]}, "json", '{"a": [1, "ü", null]}'),
        ([1, None, 'a"b\\', "NULL", ["x"]], "array", '{"1",NULL,"a\\"b\\\\","NULL",{"x"}}'),
        (UUID(int=1), "uuid", "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "text", "2026-01-02T03:04:05.000006+00:00"),
    ],
)
def test_a_value_becomes_text(value: object, kind: Kind, text: str | None) -> None:
    assert to_text(value, kind) == text


@pytest.mark.parametrize(("value", "kind"), [({"a": 1}, "text"), (object(), "text"), ({1, 2}, "json"), (1j, "float")])
def test_what_has_no_place_in_postgres(value: object, kind: Kind) -> None:
    with pytest.raises(TypeError):
        to_text(value, kind)


def test_json_keeps_every_digit_of_a_number() -> None:
    text = '{"a": 0.1000000000000000055511151231257827021181583404541015625, "b": [1.10, {"c": 12345678901234567890}]}'
    assert to_text(as_json(text), "json") == text


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        to_text({"a": float("nan")}, "json")


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), DOCUMENTS))
def test_json_round_trip(document: dict[str, object]) -> None:
    text = to_text(document, "json")
    assert text is not None
    assert json.loads(text) == document == as_json(text)


@given(st.lists(st.text() | st.none() | st.lists(st.text(), min_size=1)))
def test_arrays_round_trip(items: list[object]) -> None:
    assert as_array(to_text(items, "array")) == items


def test_arrays_as_postgres_prints_them() -> None:
    assert as_array('[2:3]={a,"b c"}') == ["a", "b c"]
    assert as_array("{}") == []
    assert as_array('{{1,2},{3,NULL},{"NULL",""}}') == [["1", "2"], ["3", None], ["NULL", ""]]
    with pytest.raises(ValueError, match="not an array"):
        as_array("{a,b")


def test_timestamps() -> None:
    assert as_datetime("2026-01-02 03:04:05.5+05:30") == datetime.fromisoformat("2026-01-02T03:04:05.5+05:30")
    assert as_datetime("2026-01-02 03:04:05") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for text in ("infinity", "-infinity", "0044-03-15 00:00:00 BC"):
        with pytest.raises(ValueError, match="keep the text"):
            as_datetime(text)


@pytest.mark.parametrize("helper", [as_datetime, as_json, as_uuid, as_array])
def test_null_stays_null(helper: Callable[[str | None], object]) -> None:
    assert helper(None) is None


def test_keys_have_one_spelling() -> None:
    assert canonical("{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "uuid") == "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    assert canonical("+007", "integer") == "7"
    assert canonical("Ab ", "text") == "Ab "
    assert canonical(None, "text") is None
    assert [canonical(each, "numeric") for each in ("1.00", "-0.0", "1E-8", "100", "NaN")] == [
        "1", "0", "0.00000001", "100", "NaN",
    ]  # fmt: skip
    assert [canonical(each, "float") for each in ("1", "-0", "1e+15", "Infinity")] == [
        "1.0", "0.0", "1000000000000000.0", "Infinity",
    ]  # fmt: skip
    assert canonical("00FF", "bytea") == canonical("\\x00ff", "bytea") == "\\x00ff"
