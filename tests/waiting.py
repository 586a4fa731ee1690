"""Waiting for a condition: the only way in which tests wait. How fast the machine is decides nothing."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

SECONDS = 60.0
"""The longest that a test waits for a condition; the machine may be busy."""
EVERY = 0.01
"""Seconds from one look to the next."""


async def until(condition: Callable[[], Any], *, alive: Callable[[], object] = bool, every: float = EVERY) -> Any:
    """Wait until a condition holds; returns what it returned.

    :param condition: a function, or one that returns an awaitable.
    :param alive: raises when what is waited for can no longer happen.
    :raises TimeoutError: it does not hold within ``SECONDS``.
    """
    async with asyncio.timeout(SECONDS):
        while True:
            met = condition()
            if found := await met if isinstance(met, Awaitable) else met:
                return found
            alive()
            await asyncio.sleep(every)


def wait_until(
    condition: Callable[[], Any],
    *,
    alive: Callable[[], object] = bool,
    said: Callable[[], object] = str,
    seconds: float = SECONDS,
    every: float = EVERY,
) -> Any:
    """Likewise, where no event loop runs.

    :param said: what a failure shows besides.
    :raises AssertionError: it does not hold within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        alive()
        assert time.monotonic() < deadline, f"the condition did not come true in time\n{said()}"
        time.sleep(every)
    return found


def running(task: "asyncio.Future[Any]") -> Callable[[], object]:
    """For ``alive``: raises what a task has raised."""
    return lambda: task.done() and task.result()
