"""What the writers saw acknowledged: the last version of every key, to be looked up on both sides afterwards."""

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

from replicator.demo.application import Application, Found, Place


@dataclass(frozen=True, slots=True)
class Entry:
    """One acknowledged write: the version that was written, None for a delete, and the schema that it went to."""

    table: str
    key: str
    version: str | None
    schema: str

    @property
    def place(self) -> Place:
        """Where it was written."""
        return self.table, self.key


@dataclass(frozen=True, slots=True)
class Lost:
    """A key that does not hold what was acknowledged last."""

    schema: str
    table: str
    key: str
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        expected, found = (
            "no row" if each is None else f"the version {each!r}" for each in (self.expected, self.found)
        )
        return f"{self.table} {self.key} has {found} in the schema {self.schema}; acknowledged was {expected}"


class Ledger:
    """The last acknowledged version of every key. Not for two threads at a time."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._last: dict[Place, Entry] = {}
        self.enter(entries)

    def __len__(self) -> int:
        return len(self._last)

    @classmethod
    def of(cls, held: Found, schema: str) -> Self:
        """A ledger of what a side holds."""
        return cls(Entry(table, key, version, schema) for (table, key), version in held.items())

    def enter(self, entries: Iterable[Entry]) -> None:
        """Take in what a transaction has written, once its commit is acknowledged."""
        for entry in entries:
            self._last[entry.place] = entry

    def merge(self, later: "Ledger") -> None:
        """Take in a later ledger."""
        self.enter(later._last.values())  # noqa: SLF001  one of its own kind

    def written_to(self, schema: str) -> set[Place]:
        """The keys whose last write went to a schema."""
        return {place for place, entry in self._last.items() if entry.schema == schema}

    def lost(self, side: Application, held: Found) -> list[Lost]:
        """What a side does not hold as it was acknowledged last: missing, stale, or there though it was deleted.

        A key that nobody has ever written must not be there either.
        """
        expected = {
            (table, side.spelling(table, key)): entry.version
            for (table, key), entry in self._last.items()
            if table in side.tables
        }
        return [
            Lost(side.schema, *place, expected.get(place), held.get(place))
            for place in sorted(expected.keys() | held.keys())
            if expected.get(place) != held.get(place)
        ]

    def save(self, path: Path) -> None:
        """Write it to a file: all of it or nothing."""
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps([astuple(entry) for entry in self._last.values()]), encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it from a file."""
        return cls(Entry(*row) for row in json.loads(path.read_text(encoding="utf-8")))
