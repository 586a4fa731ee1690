"""A session whose two schemas take writes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from replicator import Migration
from replicator.daemon.report import Reporter
from replicator.daemon.session import Session
from replicator.migration import Direction
from replicator.observe.metrics import Metrics
from replicator.pipeline.pipeline import Pipeline
from replicator.settings import Settings
from replicator.switchover import bidirectional
from replicator.switchover.phases import CLOSING, COMPLETION, OPENING, CutoverResult
from tests.engine import Engine, differences
from tests.leftovers import patched
from tests.sessions import Running


class Both(Running):
    """A session whose two schemas take writes."""

    def __init__(self, settings: Settings, migration: Migration) -> None:
        self.settings, self.migration = settings, migration
        self.metrics = Metrics()
        self.session = Session(settings, migration, self.metrics, Reporter(migration.name))
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.session.run(self.stop))
        self.steps: list[str] = []

    async def open(self) -> CutoverResult:
        await self.ready()
        result = await self.session.switchovers.run(OPENING, self.report)
        await self.until(lambda: not self.pipeline("reverse").context.shadow)
        return result

    async def complete(self) -> CutoverResult:
        return await self.session.switchovers.run(COMPLETION, self.report)

    async def close(self) -> CutoverResult:
        return await self.session.switchovers.run(CLOSING, self.report)

    def pipeline(self, direction: Direction) -> Pipeline:
        found = self.session.pipelines.get(direction)
        assert found is not None
        return found

    @contextlib.asynccontextmanager
    async def paused(self, *directions: Direction) -> AsyncIterator[None]:
        """These pipelines apply nothing meanwhile; their streams are read."""
        async with contextlib.AsyncExitStack() as stack:
            for direction in directions:
                await stack.enter_async_context(self.pipeline(direction).context.rw_lock.write())
            yield

    async def quiet(self) -> None:
        """All that is committed by now is applied, both ways, and what collided is decided."""
        both = self.session.pipelines.both
        assert both is not None
        task = asyncio.create_task(both.settle())
        await self.until(task.done)
        task.result()

    def conflicts(self) -> dict[str, float]:
        return {
            sample.labels["direction"]: sample.value
            for family in self.metrics.conflicts_total.collect()
            for sample in family.samples
        }

    async def unequal(self) -> list[Any]:
        """What f(old) and new, and g(new) and old, do not have in common."""
        found: list[Any] = []
        for direction in ("forward", "reverse"):
            found += [
                (direction, *each) for each in await differences(Engine(self.settings, self.migration, direction))
            ]
        return found


@contextlib.asynccontextmanager
async def rolling(settings: Settings, migration: Migration) -> AsyncIterator[Both]:
    running = Both(settings, migration)
    try:
        with patched(bidirectional, "LOOK_SECONDS", 0.01):
            yield running
    finally:
        running.stop.set()
        await asyncio.gather(running.task, return_exceptions=True)
