"""How far a pipeline is behind its source, in bytes and in seconds."""

from collections import deque
from collections.abc import Callable
from time import monotonic

from replicator.lsn import LSN

SAMPLES = 36_000
"""Ten hours of one a second; a lag beyond that is reported as at least so much."""


class LagMeter:
    """Fed with the source's position, it tells how old the oldest position is that has not been applied."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[LSN, float]] = deque(maxlen=SAMPLES)
        self._low_since: float | None = None
        self.bytes: int | None = None
        self.seconds: float | None = None

    def observe(self, source: LSN, applied: LSN, limit: int) -> None:
        """Take the source's position and the applied one; ``limit`` is the lag in bytes that counts as low."""
        now = self._clock()
        self._samples.append((source, now))
        while self._samples and self._samples[0][0] <= applied:
            self._samples.popleft()
        self.bytes = max(0, source - applied)
        self.seconds = now - self._samples[0][1] if self._samples else 0.0
        if self.bytes > limit:
            self._low_since = None
        elif self._low_since is None:
            self._low_since = now

    @property
    def low_for(self) -> float:
        """For how many seconds the lag has been low without a break."""
        return 0.0 if self._low_since is None else self._clock() - self._low_since
