"""Which source keys the stream has touched, and when: what keeps a chunk or a comparison from acting on a stale read.

While a *window* is open (from before a read until its result is used), a key that the stream has touched since the
window opened is the stream's: the chunk drops it, the comparison leaves it for later (ARCHITECTURE.md, I3).

For verification, a touched key *waits* until it has been compared since. Waiting keys are never lost: when there are
too many for memory, the oldest go to disk; when the disk does not take them, their whole source waits.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice, takewhile

from replicator.core.spill import Spill
from replicator.core.tables import Key

CAPACITY = 200_000
"""Keys kept in memory; some 50 MB. With more, the open windows are spoiled, and what waits goes to disk."""
SPILLED_MOST = 10_000_000
"""Keys of one source that wait on disk, some hundred bytes each; with more, the whole source waits."""


class WindowSpoiled(Exception):
    """Too many keys were touched to remember them all: read again with a new window."""


@dataclass
class Window:
    """Open from ``opened`` (a sequence number) on."""

    opened: int


@dataclass(frozen=True)
class Waiting:
    """Some keys of a source that wait to be compared, as ``DirtyKeys.waiting`` returned them."""

    source: str
    touched: Mapping[Key, int]
    """When each was touched last; 0 for a key from disk."""
    spilled: int = 0
    behind: int = 0
    cleared: int = 0
    """How many came from disk, where the next one begins, and how often that queue had been cleared."""


@dataclass
class SourceTouches:
    """The touches of one source: the last time of each key, and of the source as a whole."""

    keys: dict[Key, int] = field(default_factory=dict)
    """Oldest touch first."""
    spill: Spill = field(default_factory=Spill)
    all_at: int = 0
    all_compared_at: int = 0

    def touch_all(self, at: int) -> None:
        """Every key is touched: what waits is all of it."""
        self.keys.clear()
        self.spill.clear()
        self.all_at = at


class DirtyKeys:
    """Sequence-numbered touches per source; forgets what neither an open window nor verification still needs."""

    def __init__(self, capacity: int = CAPACITY, spilled_most: int = SPILLED_MOST) -> None:
        self._capacity = capacity
        self._spilled_most = spilled_most
        self._clock = 0
        self._sources: dict[str, SourceTouches] = {}
        self._windows: list[Window] = []
        self._spoiled_before: dict[str, int] = {}
        """By source: what was touched up to then has been forgotten."""
        self._keep_for_check = False

    def touch(self, source: str, keys: Iterable[Key]) -> None:
        """Note that the stream has written or removed what these source keys produce."""
        self._clock += 1
        if not self._windows and not self._keep_for_check:  # else a key waits until it is compared. guard: WAITS
            return
        touches = self._sources.setdefault(source, SourceTouches())
        for key in keys:
            # The youngest goes last: what is forgotten for want of room is the oldest. mutation: youngest-last
            touches.keys.pop(key, None)
            # Also one that waits on disk: there it may be compared before this change. guard: SPILLED_AGAIN
            touches.keys[key] = self._clock
        while sum(len(each.keys) for each in self._sources.values()) > self._capacity:
            self._overflow()

    def touch_all(self, source: str) -> None:
        """Note that the stream has rewritten everything that this source produces (TRUNCATE, or a wide dependency)."""
        self._clock += 1
        self._sources.setdefault(source, SourceTouches()).touch_all(self._clock)

    @contextmanager
    def window(self) -> Iterator[Window]:
        """Open a window before the read; it closes with the block."""
        window = Window(self._clock)
        self._windows.append(window)
        try:
            yield window
        finally:
            self._windows.remove(window)
            if not self._keep_for_check:
                self._forget(self._oldest_opening())

    def touched(self, source: str, window: Window) -> "Touched":
        """What the stream has touched of a source since the window opened. Raises WindowSpoiled."""
        # Keys were forgotten for want of room: rows that the stream deleted would be written again (I3).
        # guard: WINDOW_SPOILED; mutation: window-spoiled
        if window.opened < self._spoiled_before.get(source, 0):
            raise WindowSpoiled
        touches = self._sources.get(source, SourceTouches())
        return Touched(touches, window.opened)

    # ---- keys that wait to be compared

    def start_keeping(self) -> None:
        """From here on every touched key waits until ``settle`` says that it has been compared."""
        self._keep_for_check = True

    @property
    def now(self) -> int:
        """The sequence number of the last touch."""
        return self._clock

    def waiting(self, source: str, limit: int, *, after: int = 0, until: int | None = None) -> Waiting | None:
        """About ``limit`` keys that wait in memory, those that have waited longest first; None when there are no more.

        Keys that were touched together are returned together, so that a key and the one it was changed to are.

        :param after: leave out what was touched last by then.
        :param until: and what has been touched since then.
        """
        found: dict[Key, int] = {}
        last = 0
        for key, at in self._sources.get(source, SourceTouches()).keys.items():
            if (until is not None and at > until) or (len(found) >= limit and at > last):
                break
            if at > after:
                found[key] = last = at
        return Waiting(source, found) if found else None

    def waiting_on_disk(self, source: str, limit: int) -> Waiting | None:
        """Up to ``limit`` of those that wait on disk: they have waited longer than those in memory."""
        spill = self._sources.get(source, SourceTouches()).spill
        found, behind = spill.first(limit)
        return Waiting(source, dict.fromkeys(found, 0), len(found), behind, spill.cleared) if found else None

    def among(self, source: str, keys: Iterable[Key]) -> Waiting:
        """Those of these keys that wait in memory."""
        touched = self._sources.get(source, SourceTouches()).keys
        return Waiting(source, {key: touched[key] for key in keys if key in touched})

    def on_disk(self, source: str) -> int:
        """How many wait there."""
        return len(self._sources.get(source, SourceTouches()).spill)

    def youngest_first(self, source: str) -> list[Key]:
        """The touched keys that are in memory, the last one first."""
        return list(reversed(self._sources.get(source, SourceTouches()).keys))

    def waiting_keys(self, source: str) -> Iterator[Key]:
        """Every key that waits, those on disk too. The whole source may wait besides: see ``waits_whole``."""
        touches = self._sources.get(source, SourceTouches())
        spilled, _ = touches.spill.first(len(touches.spill))
        return chain(spilled, touches.keys)

    def waits_whole(self, source: str) -> int:
        """When the whole source was last touched; 0 when it was not, or has been compared since."""
        touches = self._sources.get(source, SourceTouches())
        return touches.all_at if touches.all_at > touches.all_compared_at else 0

    def waiting_count(self) -> int:
        """How many keys wait to be compared; those of sources that wait whole are not counted."""
        return sum(len(each.keys) + len(each.spill) for each in self._sources.values())

    def settle(self, waiting: Waiting, still: Iterable[Key] = ()) -> None:
        """These keys, as last touched then, have been compared, all but ``still``, which go on waiting."""
        touches = self._sources.setdefault(waiting.source, SourceTouches())
        kept = set(still)
        floor = self._oldest_opening()
        for key, at in waiting.touched.items():
            if key in kept:
                touches.keys.setdefault(key, self._clock)
            # Touched again since: what was compared is an older version. guard: SETTLED_AS_TOUCHED
            elif at and touches.keys.get(key) == at and at <= floor:
                del touches.keys[key]
        # Only what came from disk: a key of memory may have gone there since, and was touched again before.
        # guard: SETTLED_WHERE_FOUND
        if waiting.spilled and waiting.cleared == touches.spill.cleared:  # else the whole source was touched meanwhile
            touches.spill.drop(waiting.spilled, waiting.behind)

    def settle_whole(self, source: str, at: int) -> None:
        """The whole source, as last touched then, has been compared."""
        touches = self._sources.setdefault(source, SourceTouches())
        touches.all_compared_at = max(touches.all_compared_at, at)

    def _overflow(self) -> None:
        """Keep the younger half of the source that has most: a wide change to one spoils no window on the others."""
        source, touches = max(self._sources.items(), key=lambda item: len(item[1].keys))
        oldest = list(islice(touches.keys.items(), (len(touches.keys) + 1) // 2))
        self._spoiled_before[source] = max(self._spoiled_before.get(source, 0), oldest[-1][1])
        for key, _ in oldest:
            del touches.keys[key]
        if self._keep_for_check:
            self._spill(touches, [key for key, _ in oldest])  # forgotten, they would never be compared. guard: SPILLED

    def _spill(self, touches: SourceTouches, keys: list[Key]) -> None:
        try:
            touches.spill.append(keys)
        except OSError:  # no room, or no directory: nothing may be forgotten, so all of it counts as touched
            touches.touch_all(self._clock)
        if len(touches.spill) > self._spilled_most:
            touches.touch_all(self._clock)

    def _oldest_opening(self) -> int:
        return min((each.opened for each in self._windows), default=self._clock)

    def _forget(self, before: int) -> None:
        for touches in self._sources.values():
            for key in [key for key, _ in takewhile(lambda item: item[1] <= before, touches.keys.items())]:
                del touches.keys[key]


@dataclass(frozen=True)
class Touched:
    """Membership test: ``key in touched``."""

    touches: SourceTouches
    since: int

    def __contains__(self, key: Key) -> bool:
        return self.touches.all_at > self.since or self.touches.keys.get(key, 0) > self.since

    @property
    def everything(self) -> bool:
        """The whole source was touched."""
        return self.touches.all_at > self.since

    def keys(self) -> list[Key]:
        """The touched keys, unless everything was touched."""
        recent = takewhile(lambda item: item[1] > self.since, reversed(self.touches.keys.items()))
        return [key for key, _ in recent]
