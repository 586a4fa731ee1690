"""Comparing both sides, in the middle of a test."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from replicator.pipeline.repair import compare
from replicator.verify import Divergence
from tests.engine import Engine
from tests.waiting import running, until


async def verify_until(made: Engine, condition: Callable[[], Any]) -> None:
    """Wait until something holds while the engine verifies; raises what the engine raises."""

    async def held() -> None:
        await made.running.verifier.open()
        verifying = asyncio.create_task(made.running.verify(partial(compare, made.running)))
        try:
            await until(condition, alive=running(verifying))
        finally:
            verifying.cancel()
            await asyncio.gather(verifying, return_exceptions=True)

    await made.within(held())


BEHIND = "SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets"
"""Lets a test pass the guard, as an accident of the worst kind would."""


async def full_pass(made: Engine) -> list[Divergence]:
    await made.running.verifier.open()
    result = await made.within(made.running.verifier.full_pass())
    divergences: list[Divergence] = result.divergences
    return divergences
