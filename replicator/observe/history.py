"""The lag over the last half hour, kept in memory: what the page draws. A restart begins it anew."""

from collections import deque
from datetime import UTC, datetime
from threading import Lock
from typing import Final, TypedDict, TypeVar

SECONDS: Final = 5
"""A sample stands for so long; it is the worst of the looks within."""
SAMPLES: Final = 30 * 60 // SECONDS


Number = TypeVar("Number", int, float)


class Sample(TypedDict):
    """The worst lag within ``SECONDS`` from ``at`` on, ISO 8601; None: it was not measured."""

    at: str
    lag_seconds: float | None
    lag_bytes: int | None


class History:
    """Written by the daemon's loop, read by the HTTP server's threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._slot = -1

    def note(self, now: datetime, lag_seconds: float | None, lag_bytes: int | None) -> None:
        """Take a look's figures in."""
        slot = int(now.timestamp()) // SECONDS
        with self._lock:
            if slot != self._slot:
                self._slot = slot
                at = datetime.fromtimestamp(slot * SECONDS, UTC).isoformat(timespec="seconds")
                self._samples.append(Sample(at=at, lag_seconds=None, lag_bytes=None))
            last = self._samples[-1]
            last["lag_seconds"] = _worst(last["lag_seconds"], lag_seconds)
            last["lag_bytes"] = _worst(last["lag_bytes"], lag_bytes)

    def samples(self) -> list[Sample]:
        """The oldest first."""
        with self._lock:
            return [Sample(**each) for each in self._samples]


def _worst(one: Number | None, other: Number | None) -> Number | None:
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)
