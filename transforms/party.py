"""What the modules of this migration share: the migration itself, and how ids, times and old values carry over."""

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar
from uuid import NAMESPACE_URL, uuid5

from replicator import Migration, Row

migration: Final = Migration("party", old="public", new="party", whole_schema=True)

NEVER: Final = "-infinity"
"""Stands for NULL where the new column must not be null."""

_NAMESPACE: Final = uuid5(NAMESPACE_URL, "replicator:party")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_Value = TypeVar("_Value")


def new_id(table: str, old: str) -> str:
    """An old id as a UUID: itself if it is one, spelt as Postgres spells it, else one made of it, always the same.

    Other spellings of a UUID count as plain text, so that two old ids never become one.
    """
    return old if _UUID.fullmatch(old) else str(uuid5(_NAMESPACE, f"{table}/{old}"))


OLD_EVENT_ID: Final = 1
EVENT_ID: Final = new_id("events", str(OLD_EVENT_ID))


def with_zone(old: str | None) -> str | None:
    """An old timestamp, which is in UTC but does not say so, as the new schema has it."""
    if old is None or old.endswith("infinity"):
        return old
    return f"{old[:-3]}+00 BC" if old.endswith(" BC") else f"{old}+00"


def without_zone(new: str | None) -> str | None:
    """The inverse of ``with_zone``."""
    return None if new is None else new.replace("+00", "")


def moment(old: str | None) -> str:
    """An old timestamp for a column that must not be null."""
    return with_zone(old) or NEVER


def kept(legacy: Row, column: str, *, gives: Callable[[Any], _Value], now: _Value, otherwise: Any) -> Any:
    """The old value in ``legacy``, while the new value is still what it gives; otherwise what the new one says."""
    return legacy[column] if column in legacy and gives(legacy[column]) == now else otherwise
