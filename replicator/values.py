"""Values as transforms see them, and the text that goes back to Postgres.

NULL is None; boolean, integers, float, numeric (Decimal) and bytea are Python values; everything else is the exact
text that Postgres prints under pinned settings, so that infinity, BC dates and JSON documents pass through unharmed.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal
from uuid import UUID

Kind = Literal["boolean", "integer", "float", "numeric", "bytea", "json", "uuid", "array", "text"]
"""What a column's base type is, as far as conversion goes: a domain has the kind of what it is over."""

Value = Any
"""None, bool, int, float, Decimal, bytes or str when read; also dict, list, UUID and datetime when written."""


class Missing(Enum):
    """What stands in a row image for a value that the WAL leaves out."""

    UNCHANGED = "unchanged"
    """An out-of-line (TOAST) value that the update did not touch."""
    AMBIGUOUS = "ambiguous"
    """A NULL that may have been NaN or infinity: wal2json before 2.6 prints all three as null."""


def _parse_boolean(text: str) -> bool:
    return text in ("t", "true")


def _parse_bytea(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("\\x"))  # wal2json leaves the prefix out


def _as_is(text: str) -> str:
    return text


PARSERS: Final[Mapping[Kind, Callable[[str], Value]]] = {
    "boolean": _parse_boolean,
    "integer": int,
    "float": float,
    "numeric": Decimal,
    "bytea": _parse_bytea,
    "json": _as_is,
    "uuid": _as_is,
    "array": _as_is,
    "text": _as_is,
}


def to_text(value: Value, kind: Kind) -> str | None:
    """Print a value for a column of this kind, in Postgres' input syntax.

    A str goes through as it is: into a json column it is taken for a document. A dict or list becomes JSON or an array
    by the column's kind (PostgreSQL manual, 8.15.6 for arrays, 8.4.1 for bytea).

    Raises TypeError for a type that has no place in Postgres, ValueError for a NaN in JSON.
    """
    match value:
        case None:
            return None
        case str():
            return value
        case bool() if kind == "json":
            return "true" if value else "false"
        case bool():
            return "t" if value else "f"
        case float():
            return _float_text(value)
        case int() | Decimal() | UUID():
            return str(value)
        case bytes() | bytearray() | memoryview():
            return "\\x" + bytes(value).hex()
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"
        case Mapping() | list() | tuple() if kind == "json":
            return _json_text(value)
        case list() | tuple():
            return _array_text(value)
        case _:
            raise TypeError(f"a {type(value).__name__} cannot be written to a column of kind {kind}")


_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _json_text(value: Value) -> str:
    try:
        return _ENCODE(value)
    except TypeError:
        return _json_exactly(value)


def _json_exactly(value: Value) -> str:
    """For what the library's encoder does not know: Decimal above all, which ``as_json`` gives, with all its digits."""
    match value:
        case Decimal() if value.is_finite():
            return str(value)
        case Mapping():
            return "{" + ", ".join(f"{_ENCODE(str(name))}: {_json_exactly(each)}" for name, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_json_exactly, value)) + "]"
        case UUID():
            return _ENCODE(str(value))
        case _:
            return _ENCODE(value)


def _float_text(value: float) -> str:
    if value != value:  # noqa: PLR0124  NaN alone differs from itself
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)


def _array_text(items: Sequence[Value]) -> str:
    return "{" + ",".join(_array_item(item) for item in items) + "}"


def _array_item(item: Value) -> str:
    if item is None:
        return "NULL"
    if isinstance(item, list | tuple):
        return _array_text(item)
    text = to_text(item, "json" if isinstance(item, Mapping) else "text")
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_CANONICAL_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def canonical(text: str | None, kind: Kind) -> str | None:
    """One spelling for each key value, so that keys can be compared in Python as Postgres would compare them.

    Raises ValueError, or decimal.InvalidOperation for a numeric, when the text is no value of the kind.
    """
    if text is None:
        return None
    if kind == "uuid":
        return text if _CANONICAL_UUID.fullmatch(text) else str(UUID(text))
    if kind == "integer":
        return str(int(text))
    if kind == "numeric":
        return canonical_numeric(text)
    if kind == "float":
        return _float_text(float(text) + 0.0)  # -0 and 0 are one key
    if kind == "bytea":
        return "\\x" + text.removeprefix("\\x").lower()  # wal2json leaves the prefix out
    if kind == "boolean":
        return "t" if text.lower() in ("t", "true", "on", "yes", "1") else "f"
    return text


def canonical_numeric(text: str) -> str:
    """A number without exponent, and without the zeros that make no difference: 1.0 and 1.00 are one key.

    Raises decimal.InvalidOperation when the text is no number.
    """
    number = Decimal(text)
    if not number.is_finite():
        return str(number)
    digits = f"{number:f}"
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return "0" if digits == "-0" else digits


# ---- helpers for the authors of transforms


_DECODE: Final = json.JSONDecoder(parse_float=Decimal).decode


def as_json(text: str | None) -> Any:
    """A json or jsonb text as Python; numbers with a point become Decimal, so that no digit is lost.

    Raises ValueError when the text is no JSON document.
    """
    return None if text is None else _DECODE(text)


def as_uuid(text: str | None) -> UUID | None:
    """A uuid text as UUID. Raises ValueError when it is none."""
    return None if text is None else UUID(text)


def as_datetime(text: str | None) -> datetime | None:
    """A timestamp text as an aware datetime; one without time zone is taken for UTC.

    Raises ValueError for what Python cannot hold: infinity and years before 1 or after 9999.
    """
    if text is None:
        return None
    if text.endswith(("infinity", " BC")):
        raise ValueError(f"Python has no datetime for {text!r}; keep the text")
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def as_array(text: str | None) -> list[Any] | None:
    """An array text (``{a,"b c",NULL}``, nested ones too) as a list of str, list and None. Bounds are dropped.

    The syntax is that of the PostgreSQL manual, 8.15.6. Raises ValueError when the text does not follow it.
    """
    if text is None:
        return None
    start = text.index("{")
    items, end = _read_array(text, start + 1)
    if end != len(text):
        raise ValueError(f"not an array: {text!r}")
    return items


_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)', re.DOTALL)


def _read_array(text: str, position: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    while True:
        item: Any
        if text[position : position + 1] == "}" and not items:
            return items, position + 1
        if text[position : position + 1] == "{":
            item, position = _read_array(text, position + 1)
        else:
            found = _ITEM.match(text, position)
            if found is None:
                raise ValueError(f"not an array: {text!r}")
            item, position = _item_value(found), found.end()
        items.append(item)
        after, position = text[position : position + 1], position + 1
        if after == "}":
            return items, position
        if after != ",":
            raise ValueError(f"not an array: {text!r}")


def _item_value(found: re.Match[str]) -> str | None:
    quoted, plain = found.groups()
    if quoted is not None:
        return re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
    return None if plain.upper() == "NULL" else plain
