"""The steps of one attempt at a switchover, and how long each of them took."""

import time
from collections.abc import Callable

Told = list[dict[str, str | float]]
"""For the journal: ``step``, and ``seconds`` with microseconds; in the order in which the steps began."""


class Steps:
    """Notes where the time goes while writers wait: every moment from ``begin`` to ``end`` belongs to one step.

    :param clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = "begin"
        """The step that is under way; after the end, the last one."""
        self._clock = clock
        self._took: dict[str, float] = {}
        self._since: float | None = None

    def begin(self, step: str) -> None:
        """The pause begins, with this step."""
        self._since = self._clock()
        self.now = step

    def at(self, step: str) -> None:
        """Another step begins. Before the pause, and after it, a step has a name but no time."""
        self._count()
        self.now = step

    def end(self) -> None:
        """The pause is over, however. Harmless when it is already."""
        self._count()
        self._since = None

    @property
    def told(self) -> Told:
        """What is over; a step that came twice has the sum."""
        return [{"step": step, "seconds": round(seconds, 6)} for step, seconds in self._took.items()]

    def _count(self) -> None:
        if self._since is not None:
            now = self._clock()
            self._took[self.now] = self._took.get(self.now, 0.0) + now - self._since
            self._since = now
