"""A transaction of the demo's application, as data; and the keys that one writer chooses from."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from replicator.demo.application import Application
from replicator.demo.ledger import Entry


@dataclass(frozen=True, slots=True)
class Write:
    """What a transaction does to one row; ``born``: the key is a new one."""

    table: str
    key: str
    version: str | None
    born: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One transaction, which may be run against either schema, and again."""

    run: Callable[[Application], None]
    writes: tuple[Write, ...]
    rolls_back: bool = False

    def entries(self, application: Application) -> list[Entry]:
        """What the ledger is to hold once the commit is acknowledged.

        A row that is born in the new schema has the new spelling of its id in both.
        """
        return [
            Entry(
                each.table,
                application.spelling(each.table, each.key) if each.born else each.key,
                each.version,
                application.schema,
            )
            for each in self.writes
            if each.table in application.tables and not self.rolls_back
        ]


class Keys:
    """Keys to choose from at random."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def add(self, key: str) -> None:
        """Add a key, if it is new."""
        if key not in self._places:
            self._places[key] = len(self._keys)
            self._keys.append(key)

    def discard(self, key: str) -> None:
        """Remove a key, if it is there."""
        place = self._places.pop(key, None)
        if place is not None:
            last = self._keys.pop()
            if last != key:
                self._keys[place] = last
                self._places[last] = place

    def any(self, chance: random.Random) -> str:
        """One of them."""
        return chance.choice(self._keys)

    def some(self, chance: random.Random, most: int) -> list[str]:
        """Several different ones."""
        return chance.sample(self._keys, min(most, len(self._keys)))
