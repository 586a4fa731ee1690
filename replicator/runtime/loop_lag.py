"""How late the event loop is: while a task computes, nothing else in its process goes on, the stream included."""

import asyncio
from collections.abc import Callable

LOOK_SECONDS = 0.01
"""Between two looks. What keeps the loop busy for a time ``t`` is seen as ``t``, less at most this."""


async def watch_loop(observe: Callable[[float], None]) -> None:
    """Sleep again and again, and tell by how many seconds each awakening came late. Never returns."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        observe(max(0.0, clock() - due))
