"""Rows that were refused because others were read before the stream had come to them: they are tried again then."""

from collections.abc import Iterable

from replicator.apply.batch import Batch
from replicator.lsn import LSN, ZERO
from replicator.postgres.quarantine import Failure
from replicator.tables import Key

Owed = dict[str, set[Key]]
"""Source keys by source."""


class Later:
    """One pipeline's. They are in quarantine meanwhile; a daemon that dies forgets that it was to try them again."""

    def __init__(self) -> None:
        self._clashed: set[tuple[str, Key]] = set()
        self._owed: Owed = {}
        self._due = ZERO
        self._taken = False

    def begin(self) -> None:
        """A transaction begins."""
        self._clashed = set()
        self._taken = False

    def clashed(self, source: str, key: Key) -> None:
        """This row was refused in it, by other rows."""
        self._clashed.add((source, key))

    def is_due(self, position: LSN | None) -> bool:
        """Whether something is to be tried again, now that the stream has come so far."""
        return bool(self._owed) and (self._taken or (position is not None and position >= self._due))

    def add_to(self, batch: Batch) -> None:
        """Let a batch read again what is due, but for what it brings itself."""
        self._taken = True
        for source, keys in self._owed.items():
            state = batch.tables.get(source)
            if source not in batch.dirty_all and not (state is not None and state.truncated):
                batch.dirty.setdefault(source, set()).update(keys - (state.rows.keys() if state else set()))

    def commit(self, failures: Iterable[Failure], end: LSN, ahead: LSN) -> None:
        """The transaction ends with these failures at ``end``; rows on the target may be as new as ``ahead``."""
        if self._taken:
            self._owed = {}
        for each in failures if ahead > end else ():
            if (each.source, each.source_key) in self._clashed:
                self._owed.setdefault(each.source, set()).add(each.source_key)
                self._due = ahead
