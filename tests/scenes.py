"""Small schemas with their migration, and what an application may do there, as strategies: parts of random histories.

A scene's tables are written ``@name``: the name gets the schema of its side.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from hypothesis import strategies as st

from replicator import Migration, Row

Side = Literal["old", "new"]
SCHEMAS: Final[Mapping[Side, str]] = {"old": "public", "new": "shop"}

Pair = tuple[str, str]
"""Two queries: what the one selects from the source, the other selects from the target."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A column of an old table that no transform gives: whoever stays has it still."""

    table: str
    column: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Tables of both sides, the transforms between them, and what is to be equal when all is applied."""

    name: str
    old: str
    new: str
    """Tables, as they are before the backfill."""
    constraints: str
    """Of the new tables, made after it."""
    declare: Callable[[Migration], None] = field(repr=False)
    forward: Sequence[Pair] = field(repr=False)
    reverse: Sequence[Pair] = field(repr=False)
    filled: Mapping[Side, str] = field(repr=False)
    """What brings the few rows that are not there."""
    work: Mapping[Side, st.SearchStrategy[str]] = field(repr=False)
    """What the application does on either side, each several statements with a semicolon between them."""
    kept: Kept | None = field(default=None, repr=False)
    rereads: Collection[str] = field(default=(), repr=False)
    """Transforms of rows that are newer than the stream, or refer to such: they may clash until it has come there."""


def on_side(text: str, side: Side) -> str:
    """SQL with the names of its tables."""
    return re.sub(r"@(\w+)", rf"{SCHEMAS[side]}.\1", text)


def as_it_is(row: Row) -> dict[str, Any]:
    """A row is carried over unchanged."""
    return dict(row)


def carried(*tables: str, key: str = "id") -> Callable[[Migration], None]:
    """Both ways, row by row, by the column ``key``."""

    def declare(migration: Migration) -> None:
        for table in tables:
            migration.transform(source=table, into=table, key=lambda row: row[key], name=table)(as_it_is)
            migration.reverse(source=table, into=table, key=lambda row: row[key], name=table)(as_it_is)

    return declare


def equal(*tables: str, columns: str = "*") -> list[Pair]:
    """The same rows on both sides."""
    return [(f"SELECT {columns} FROM @{table}", f"SELECT {columns} FROM @{table}") for table in tables]


# ---- statements with holes

FEW: Final = 6
"""So many keys are in use, besides those of many rows: few, so that transactions meet."""

_HOLES: Final[Mapping[str, st.SearchStrategy[Any]]] = {
    "k": st.integers(1, FEW),
    "n": st.one_of(st.integers(1, FEW), st.just("NULL")),
    "w": st.sampled_from(["'a'", "'b'", "'c'", "'d'"]),
    "m": st.sampled_from([1, 2, 30, 30, 30, 120, 120, 1_500]),
    "o": st.sampled_from([1, 10, 50]),
    "p": st.sampled_from(["'n'", "'s'", "'w'"]),
    "d": st.integers(0, 3),
}
"""Keys, keys or NULL, words, how many rows, distances, places, small numbers."""

MANY: Final = 1_000
"""Where the keys of many rows begin."""


def work(*templates: str) -> st.SearchStrategy[str]:
    """One of these, its holes filled: ``:k`` is a key, and so is ``:k2``, another or the same."""
    return st.sampled_from(templates).flatmap(_filled)


def _filled(template: str) -> st.SearchStrategy[str]:
    holes = dict.fromkeys(re.findall(r":([a-z])(\d?)\b", template))
    values = st.fixed_dictionaries({"".join(hole): _HOLES[hole[0]] for hole in holes})
    return values.map(lambda given: re.sub(r":([a-z]\d?)\b", lambda found: str(given[found[1]]), template))


def same_work(*templates: str) -> Mapping[Side, st.SearchStrategy[str]]:
    """The same on both sides."""
    drawn = work(*templates)
    return {"old": drawn, "new": drawn}


def few(*inserts: str) -> str:
    """Rows with the few keys, where they are not there; each ends in ``FROM @table``, and its numbers are ``g``."""
    return "; ".join(
        f"{head} FROM generate_series(1, {FEW}) AS g WHERE NOT EXISTS (SELECT FROM @{table} WHERE id = g)"
        for head, table in (each.rsplit(" FROM @", 1) for each in inserts)
    )


def same(text: str) -> Mapping[Side, str]:
    """The same on both sides."""
    return {"old": text, "new": text}


def many(insert: str, table: str) -> list[str]:
    """What is done with many rows at once; the numbers of ``insert`` are ``g``."""
    return [
        f"{insert} FROM generate_series({MANY}, {MANY} - 1 + :m) AS g",
        f"DELETE FROM @{table} WHERE id >= {MANY} + :m - 1",
        f"DELETE FROM @{table} WHERE id >= {MANY} + :m; "
        f"{insert} FROM generate_series({MANY} + :m, {MANY} + 40 + :m) AS g",
    ]


# ---- what constraints do

DEFERRABILITY: Final = st.sampled_from(["", "", "", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"])
_ACTIONS: Final = st.sampled_from(["", "", "CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT"])


@st.composite
def actions(draw: st.DrawFn) -> str:
    """How a foreign key goes on."""
    deleted, updated = draw(_ACTIONS), draw(_ACTIONS)
    parts = [deleted and f"ON DELETE {deleted}", updated and f"ON UPDATE {updated}", draw(DEFERRABILITY)]
    return " ".join(part for part in parts if part)


def of_both(drawn: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, str]]:
    """For the old side and the new one, mostly the same."""
    return st.one_of(drawn.map(lambda one: (one, one)), st.tuples(drawn, drawn))
