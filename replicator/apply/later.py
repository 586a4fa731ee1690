"""Rows that were refused because of others: they are tried again, for what stood in their way may have gone.

Mostly that was a row which had been read again before the stream came to it: once the stream has come so far, they fit.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic

from replicator.apply.dates import Dates
from replicator.core.lsn import LSN
from replicator.core.tables import Key
from replicator.postgres.control.quarantine import Failure

MOST = 10_000
"""So many rows are remembered here. Of more, the others wait in quarantine until they change, or are retried."""
AT_ONCE = 1_000
"""So many are tried again in one transaction."""
STUBBORN = 2
"""What was refused so often although the stream had come to what was read clashes with something that stays."""
PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until a stubborn row is tried again, doubled each time: else it would be tried with each transaction."""

Owner = tuple[str, Key]
"""A source and a source key."""


@dataclass(frozen=True, kw_only=True)
class Owed:
    """A row that is to be tried again."""

    due: LSN
    """Once the stream has come so far."""
    not_before: float
    """By the clock."""
    tries: int
    dated: datetime | None
    """When the application changed it, while both schemas take writes."""


@dataclass
class Again:
    """Some rows that are due."""

    stubborn: bool
    """Another clash is a true one: the stream need not be waited for."""
    dirty: dict[str, set[Key]] = field(default_factory=dict)
    dates: Dates = field(default_factory=Dates)


class Later:
    """One pipeline's. They are in quarantine meanwhile; a new daemon tries again what it finds there."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._owed: dict[Owner, Owed] = {}
        self._clashed: set[Owner] = set()
        self._tried: set[Owner] = set()
        self._soonest = 0.0
        """When the first of them may be due."""

    def begin(self) -> None:
        """A transaction begins."""
        self._clashed, self._tried = set(), set()

    def found(self, standing: Iterable[Owner], due: LSN) -> None:
        """The daemon starts with these in quarantine: why the one before it refused them, nobody remembers."""
        for owner in standing:
            self._owe(owner, Owed(due=due, not_before=self._clock(), tries=0, dated=None))

    def clashed(self, source: str, key: Key) -> None:
        """This row was refused in the transaction, by other rows."""
        self._clashed.add((source, key))

    def is_stubborn(self, source: str, key: Key) -> bool:
        """Whether to read more of the stream has not helped it so far."""
        owed = self._owed.get((source, key))
        return owed is not None and owed.tries >= STUBBORN

    def is_due(self, position: LSN | None) -> bool:
        """Whether something is to be tried again, now that the stream has come so far."""
        if position is None or not self._owed or self._clock() < self._soonest:
            return False
        return any(self._due(each, position) for each in self._owed.values())

    def take(self, position: LSN, stands: Callable[[str, Key], bool], *, dated: bool = False) -> list[Again]:
        """What is to be tried again now, at most so much as fits into a transaction. What is resolved is forgotten.

        :param stands: whether something of this source and key is in quarantine.
        :param dated: both schemas take writes: leave out rows of which nobody knows when the application changed them.
        """
        first, stubborn = Again(stubborn=False), Again(stubborn=True)
        due = [owner for owner, each in self._owed.items() if self._due(each, position)]
        for source, key in due[:AT_ONCE]:
            self._tried.add((source, key))
            owed = self._owed[source, key]
            if stands(source, key) and not (dated and owed.dated is None):
                again = stubborn if owed.tries >= STUBBORN else first
                again.dirty.setdefault(source, set()).add(key)
                again.dates.note(source, key, owed.dated)
        return [each for each in (first, stubborn) if each.dirty]

    def commit(self, failures: Iterable[Failure], end: LSN, ahead: LSN, dates: Dates) -> None:
        """The transaction ends with these failures at ``end``; rows on the target may be as new as ``ahead``.

        :param dates: when the application changed them, while both schemas take writes.
        """
        failed = {(each.source, each.source_key) for each in failures} & self._clashed
        for owner in self._tried - failed:
            self._owed.pop(owner, None)
        for owner in failed:
            known = self._owed.get(owner)
            tries = 1 if known is None else known.tries + 1
            if ahead <= end:  # the stream has come to all that was read: it was no reason
                tries = max(tries, STUBBORN)
            doubled = min(tries - STUBBORN, 20)
            pause = 0.0 if tries < STUBBORN else min(PAUSE * 2.0**doubled, LONGEST_PAUSE)
            dated = dates.of(*owner) or (None if known is None else known.dated)
            self._owe(owner, Owed(due=max(ahead, end), not_before=self._clock() + pause, tries=tries, dated=dated))
        self._soonest = min((each.not_before for each in self._owed.values()), default=0.0)

    def _owe(self, owner: Owner, owed: Owed) -> None:
        if owner in self._owed or len(self._owed) < MOST:
            self._owed[owner] = owed

    def _due(self, owed: Owed, position: LSN) -> bool:
        return position >= owed.due and self._clock() >= owed.not_before
