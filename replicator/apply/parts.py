"""What a transaction on the target has written in parts: so that it can be undone, and written again otherwise."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from replicator.apply.net_changes import NetChanges
from replicator.apply.undoing import Savepoint
from replicator.core.spill import Spill
from replicator.core.tables import Key
from replicator.mapping.plan import Plan

MOST_KEYS = 20_000
"""So many keys are kept in memory, and their rows read again at once; of a larger transaction they are kept on disk."""

AT_ONCE = 5_000
"""Then so many rows are read again at once, from one table."""


@dataclass
class Parts:
    """The parts since ``begin``. Constraints that wait for the transaction's end may turn out to be violated by any."""

    savepoint: Savepoint
    plan: Plan
    dirty: dict[str, dict[Key, None]] = field(default_factory=dict)
    """In the order in which the stream has brought them."""
    dirty_all: set[str] = field(default_factory=set)
    spilled: dict[str, Spill] = field(default_factory=dict)

    def note(self, net: NetChanges) -> None:
        """This has been written, its reads done."""
        self.dirty_all |= net.dirty_all
        for name, state in net.tables.items():
            if state.truncated:
                self.dirty_all.add(name)
            self._add(name, state.rows)
        for name, rows in net.rows.items():
            self._add(name, rows)
        if sum(map(len, self.dirty.values())) > MOST_KEYS:
            for name, keys in self.dirty.items():
                self._spill(name, keys)
            self.dirty.clear()

    def _add(self, name: str, keys: Iterable[Key]) -> None:
        self.dirty.setdefault(name, {}).update(dict.fromkeys(keys))

    def _spill(self, name: str, keys: Iterable[Key]) -> None:
        if name in self.dirty_all:
            return
        try:
            self.spilled.setdefault(name, Spill()).append(keys)
        except OSError:  # no room, or no directory: nothing may be forgotten, so the whole source is read again
            del self.spilled[name]
            self.dirty_all.add(name)

    @property
    def several(self) -> bool:
        """Whether ``batches`` returns more than one."""
        return bool(self.spilled)

    async def undo(self) -> None:
        """Undo them."""
        await self.savepoint.back()

    def batches(self) -> Iterator[NetChanges]:
        """All that they have written, to be read and written again: as one batch, or as several if it is too much.

        Of several, parents come before children, and each is to be judged by itself: a row that is refused only for
        want of another one is to be tried again in the end.
        """
        dirty = {name: keys for name, keys in self.dirty.items() if name not in self.dirty_all}
        spilled = {name: keys for name, keys in self.spilled.items() if name not in self.dirty_all}
        if not spilled:
            yield NetChanges(dirty={name: set(keys) for name, keys in dirty.items()}, dirty_all=self.dirty_all)
            return
        if self.dirty_all:
            yield NetChanges(dirty_all=self.dirty_all)
        for name in sorted({*dirty, *spilled}, key=self._place):
            waiting = spilled.get(name, Spill())
            while len(waiting):
                keys, behind = waiting.first(AT_ONCE)
                waiting.drop(len(keys), behind)
                yield NetChanges(dirty={name: set(keys)})
            if left := dirty.get(name):
                yield NetChanges(dirty={name: set(left)})

    def _place(self, name: str) -> int:
        targets = {each.target.name for each in self.plan.sources[name].transforms}
        return min((place for place, table in enumerate(self.plan.targets) if table.name in targets), default=0)
