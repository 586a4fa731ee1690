"""Long computations in the event loop let the other tasks go on."""

import asyncio
from time import perf_counter
from typing import Final

SLICE_SECONDS: Final = 0.02
"""How long a computation keeps the event loop at a stretch, beyond its smallest step."""


class Pace:
    """One computation's: asked before each of its steps, such as a call of a transform.

    By time, not by steps: a transform may take a microsecond or ten milliseconds. Without it signals, requests over
    HTTP and the lease would wait for the last row of a batch.
    """

    def __init__(self) -> None:
        self._until = perf_counter() + SLICE_SECONDS

    async def step(self) -> None:
        """Let the other tasks go on if this one has had its time."""
        if perf_counter() > self._until:
            await asyncio.sleep(0)
            self._until = perf_counter() + SLICE_SECONDS
