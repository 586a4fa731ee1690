"""What changes come to: the last state of each source key, and what must be read again."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from replicator.apply.dates import Dates
from replicator.core.changes import RelationName
from replicator.core.dirty_keys import DirtyKeys
from replicator.core.lsn import LSN
from replicator.core.tables import Key, Row, Table
from replicator.mapping.plan import Dependency
from replicator.postgres.rows.keys import Asked

Relations = Mapping[RelationName, Table | None]
"""The table that each relation name in the log stands for, partitions too; None for one that does not matter."""


Parameters = tuple[tuple[str, str | None], ...]
"""A lookup's, by name."""


@dataclass
class TableState:
    """The last state of each changed key of a table source; None: the row is gone."""

    truncated: bool = False
    rows: dict[Key, Row | None] = field(default_factory=dict)
    copies: dict[Key, list[Row]] = field(default_factory=dict)
    """Rows as the opposite pipeline wrote them, which may have changed since: what they give is on the target."""
    moves: dict[Key, Key] = field(default_factory=dict)
    """The key that a row had before, by the one that it has now."""


@dataclass
class NetChanges:
    """What a list of changes comes to."""

    tables: dict[str, TableState] = field(default_factory=dict)
    dirty: dict[str, set[Key]] = field(default_factory=dict)
    """Source keys to be read again: of queries, and of tables where the log left a value out."""
    dirty_all: set[str] = field(default_factory=set)
    """Sources to be read again whole."""
    lookups: dict[tuple[Dependency, Parameters], datetime | None] = field(default_factory=dict)
    """Each once, however many changes ask for it; with the time of the application's last one."""
    rows: dict[str, dict[Key, Row | None]] = field(default_factory=dict)
    """What was read again, by source; None: the row is gone."""
    read_at: LSN | None = None
    """When it was read."""
    dates: Dates = field(default_factory=Dates)
    """Filled only while both schemas take writes."""
    asked: Asked = field(default_factory=Asked)
    """The forms of the keys in the log, where Python does not know them."""
    overwritten: set[tuple[str, Key]] = field(default_factory=set)
    """By source: rows that the application changed, and the opposite pipeline after it, without having heard of it."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Changes by table and operation."""

    @property
    def reads(self) -> bool:
        """Whether the source must be asked."""
        return bool(any(self.dirty.values()) or self.dirty_all or self.lookups)

    @property
    def sources(self) -> set[str]:
        """All that it concerns."""
        looked_up = {dependency.source for dependency, _ in self.lookups}
        return {*self.tables, *(name for name, keys in self.dirty.items() if keys), *self.dirty_all, *looked_up}

    def holds(self, source: str, key: Key) -> bool:
        """Whether what this source key gives follows from the batch, be it from a later part of it."""
        state = self.tables.get(source)
        return (
            source in self.dirty_all
            or key in self.rows.get(source, ())
            or (state is not None and (state.truncated or key in state.rows))
        )

    def touch(self, dirty_keys: DirtyKeys) -> None:
        """Note the source keys that are the stream's now, for the windows that are open."""
        for name, state in self.tables.items():
            if state.truncated:
                dirty_keys.touch_all(name)
            # A chunk that has read an older version drops it (I3). mutation: stream-touches
            dirty_keys.touch(name, state.rows)
        for name, rows in self.rows.items():
            if name not in self.dirty_all:
                dirty_keys.touch(name, rows)
        for name in self.dirty_all:
            dirty_keys.touch_all(name)
