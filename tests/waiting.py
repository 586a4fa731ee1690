"""Waiting for a condition, which is all that tests wait for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition; the test's own limit ends the waiting."""
    while True:
        met = condition()
        if await met if isinstance(met, Awaitable) else met:
            return
        await asyncio.sleep(0.02)
