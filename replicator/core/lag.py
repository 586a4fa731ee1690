"""How far a pipeline is behind its source, in bytes and in seconds."""

from collections import deque
from collections.abc import Callable
from time import monotonic

from replicator.core.lsn import LSN

SAMPLES = 36_000
"""Ten hours of one a second; a lag beyond that is reported as at least so much."""
GAP_SECONDS = 5.0
"""Who has not looked for so long does not know what has come meanwhile, nor when."""


class LagMeter:
    """Fed with the source's position, it tells how old the oldest position is that has not been applied.

    That time is what writers would wait for in a cutover. The bytes are of the whole log: those of other databases and
    of our own writes are among them, which take no time to be applied.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[LSN, float]] = deque(maxlen=SAMPLES)
        self._low_since: float | None = None
        self._looked: float | None = None
        self.bytes: int | None = None
        self.seconds: float | None = None

    def resume(self, seconds: float) -> None:
        """Say that all was applied so many seconds ago, as is stored: what came since is as old as that, at most."""
        self._looked = self._clock() - seconds

    def observe(self, source: LSN, applied: LSN, limit: float, committed_ago: float | None = None) -> None:
        """Take the source's position and the applied one.

        :param limit: the lag in seconds that counts as low.
        :param committed_ago: how long ago, by the source's clock, the last transaction was committed that is applied.
            All before it is applied too, so no lag is longer.
        """
        now = self._clock()
        gap = self._looked is not None and now - self._looked > GAP_SECONDS
        self._samples.append((source, self._looked if gap and self._looked is not None else now))
        self._looked = now
        while self._samples and self._samples[0][0] <= applied:
            self._samples.popleft()
        self.bytes = max(0, source - applied)
        self.seconds = now - self._samples[0][1] if self._samples else 0.0
        if committed_ago is not None:
            self.seconds = min(self.seconds, max(0.0, committed_ago))
        if gap or self.seconds > limit:
            self._low_since = None
        if self.seconds <= limit and self._low_since is None:
            self._low_since = now

    @property
    def age(self) -> float | None:
        """How many seconds ago it was last fed; None before the first time."""
        return None if self.bytes is None or self._looked is None else self._clock() - self._looked

    @property
    def low_for(self) -> float:
        """For how many seconds the lag has been low without a break; 0 when nobody has looked for a while."""
        if self._low_since is None or (self.age or 0.0) > GAP_SECONDS:
            return 0.0
        return self._clock() - self._low_since
