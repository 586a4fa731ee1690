"""Which source keys the stream has touched, and when: what keeps a chunk or a comparison from acting on a stale read.

While a *window* is open (from before a read until its result is used), a key that the stream has touched since the
window opened is the stream's: the chunk drops it, the comparison leaves it for later (ARCHITECTURE.md, I3).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, takewhile

from replicator.tables import Key

CAPACITY = 200_000
"""Keys kept before the log gives up and spoils the open windows; some 50 MB."""


class WindowSpoiled(Exception):
    """Too many keys were touched to remember them all: read again with a new window."""


@dataclass
class Window:
    """Open from ``opened`` (a sequence number) on."""

    opened: int


@dataclass
class SourceTouches:
    """The touches of one source: the last time of each key, and of the source as a whole."""

    keys: dict[Key, int] = field(default_factory=dict)
    """Oldest touch first."""
    all_at: int = 0
    all_compared_at: int = 0


class TouchLog:
    """Sequence-numbered touches per source; forgets what neither an open window nor the next check still needs."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._clock = 0
        self._sources: dict[str, SourceTouches] = {}
        self._windows: list[Window] = []
        self._spoiled_before = 0
        self._keep_for_check = False

    def touch(self, source: str, keys: Iterable[Key]) -> None:
        """Note that the stream has written or removed what these source keys produce."""
        self._clock += 1
        if not self._windows and not self._keep_for_check:
            return
        touches = self._sources.setdefault(source, SourceTouches())
        for key in keys:
            touches.keys.pop(key, None)  # the youngest goes last
            touches.keys[key] = self._clock
        if sum(len(each.keys) for each in self._sources.values()) > self._capacity:
            self._overflow()

    def touch_all(self, source: str) -> None:
        """Note that the stream has rewritten everything that this source produces (TRUNCATE, or a wide dependency)."""
        self._clock += 1
        touches = self._sources.setdefault(source, SourceTouches())
        touches.keys.clear()
        touches.all_at = self._clock

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
        if window.opened < self._spoiled_before:
            raise WindowSpoiled
        touches = self._sources.get(source, SourceTouches())
        return Touched(touches, window.opened)

    # ---- keys changed since a clean pass

    def start_keeping(self) -> None:
        """From here on every touched key stays until ``settle`` says that it has been compared."""
        self._keep_for_check = True

    def stop_keeping(self) -> None:
        """Forget all but what open windows need."""
        self._keep_for_check = False
        self._forget(self._oldest_opening())

    @property
    def now(self) -> int:
        """The sequence number of the last touch."""
        return self._clock

    def unsettled(self, source: str, limit: int | None = None) -> list[tuple[Key, int]]:
        """The oldest touched keys that have not been compared since, with the time of their last touch."""
        items = self._sources.get(source, SourceTouches()).keys.items()
        return list(islice(items, limit))

    def unsettled_all(self, source: str) -> int:
        """When the whole source was last touched; 0 when it was not, or has been compared since."""
        touches = self._sources.get(source, SourceTouches())
        return touches.all_at if touches.all_at > touches.all_compared_at else 0

    def unsettled_count(self) -> int:
        """How many keys wait to be compared."""
        return sum(len(each.keys) for each in self._sources.values())

    def settle(self, source: str, compared: Iterable[tuple[Key, int]]) -> None:
        """These keys, as last touched then, have been compared; a later touch of the same key stays."""
        keys = self._sources.setdefault(source, SourceTouches()).keys
        floor = self._oldest_opening()
        for key, at in compared:
            if keys.get(key) == at and at <= floor:
                del keys[key]

    def settle_all(self, source: str, at: int) -> None:
        """The whole source, as last touched then, has been compared."""
        touches = self._sources.setdefault(source, SourceTouches())
        touches.all_compared_at = max(touches.all_compared_at, at)

    def lost_count_since(self, at: int) -> bool:
        """True when keys touched after ``at`` have been forgotten for want of room: only a full pass helps."""
        return self._spoiled_before > at

    def _overflow(self) -> None:
        self._spoiled_before = self._clock
        for touches in self._sources.values():
            touches.keys.clear()

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
