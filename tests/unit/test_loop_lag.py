"""The event loop's lag is what a task that computes keeps the others waiting for."""

import asyncio
import time

from replicator.runtime.loop_lag import LOOK_SECONDS, watch_loop
from tests.waiting import until

BUSY_SECONDS = 0.2


async def test_a_task_that_computes_is_seen() -> None:
    seen: list[float] = []
    watching = asyncio.create_task(watch_loop(seen.append))
    await until(lambda: seen, every=LOOK_SECONDS)
    seen.clear()
    time.sleep(BUSY_SECONDS)  # noqa: ASYNC251  this is what is to be seen
    await until(lambda: seen, every=LOOK_SECONDS)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert max(seen) >= BUSY_SECONDS - LOOK_SECONDS
    assert min(seen) >= 0
