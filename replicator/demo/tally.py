"""What the writers have done so far, and how long it took them."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(kw_only=True)
class Tally:
    """Counts are since the beginning, but for ``slowest``, in seconds, which is since the report before."""

    transactions: Counter[str] = field(default_factory=Counter)
    """Acknowledged ones, by schema."""
    rolled_back: int = 0
    """By the application itself."""
    refused: int = 0
    """Met the guard, and were done on the other schema."""
    retried: int = 0
    """Gave way to others, and were done again."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failed, by the error's name."""
    first_error: str = ""
    slowest: float = 0.0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def acknowledged(self, schema: str, seconds: float, *, rolled_back: bool) -> None:
        """Count a transaction; the time is that from its first try to its acknowledgement."""
        with self._lock:
            self.transactions[schema] += 1
            self.rolled_back += rolled_back
            self.slowest = max(self.slowest, seconds)

    def again(self, *, refused: bool) -> None:
        """Count a try that is to be made once more."""
        with self._lock:
            if refused:
                self.refused += 1
            else:
                self.retried += 1

    def failed(self, error: Exception) -> None:
        """Count a transaction that was given up."""
        with self._lock:
            self.errors[type(error).__name__] += 1
            self.first_error = self.first_error or str(error).partition("\n")[0]

    def report(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        with self._lock:
            slowest, self.slowest = self.slowest, 0.0
            return {
                "transactions": dict(self.transactions),
                "rolled_back": self.rolled_back,
                "refused": self.refused,
                "retried": self.retried,
                "errors": dict(self.errors),
                "first_error": self.first_error,
                "slowest": slowest,
            }

    @classmethod
    def of(cls, report: dict[str, Any]) -> Self:
        """The tally that a report was made of."""
        counters = {name: Counter(report[name]) for name in ("transactions", "errors")}
        return cls(**{**report, **counters})
