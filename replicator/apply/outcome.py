"""What comes of a batch: what was written, or why it cannot be written like this."""

from collections import Counter
from dataclasses import dataclass, field

from replicator.core.lsn import LSN
from replicator.errors import RowError
from replicator.postgres.control.quarantine import Failure


class OutOfOrderError(RowError):
    """All at once it cannot be written; applied change by change, as the application did it, it may well be."""


class PendingError(RowError):
    """A constraint that waits for the transaction's end is violated by an earlier part of the transaction."""


class NewerReadError(RowError):
    """Rows that were read again clash with the target because the stream has not come to ``lsn`` yet: apply more."""

    def __init__(self, cause: RowError, lsn: LSN) -> None:
        super().__init__(cause.problem, cause.remedy, cause.sqlstate)
        self.lsn = lsn


@dataclass
class Outcome:
    """What was read and written, for the metrics."""

    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    written: Counter[tuple[str, str]] = field(default_factory=Counter)
    read_again: Counter[str] = field(default_factory=Counter)
    """Rows by source: a query hangs on what changed, or the log left a value out."""
    failures: list[Failure] = field(default_factory=list)
    lost: int = 0
    """Changes that were not written because the application wrote the other side later."""

    def heaviest(self) -> str:
        """The source that has made most of the work, and how much."""
        if self.read_again:
            [(name, rows)] = self.read_again.most_common(1)
            return f"{name}, of which {rows:,} rows were read again"
        changed = Counter[str]()
        for (table, _), rows in self.changes.items():
            changed[table] += rows
        return "".join(f"{name}, of which {rows:,} rows were changed" for name, rows in changed.most_common(1))
