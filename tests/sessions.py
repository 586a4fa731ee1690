"""A session of the daemon inside the test, and what tests ask of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from replicator import Migration
from replicator.daemon.hooks import Hooks
from replicator.daemon.report import Reporter
from replicator.daemon.session import Session
from replicator.errors import NotReadyError
from replicator.observe.metrics import Metrics
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.session.connect import connection
from replicator.settings import Settings
from replicator.switchover.gates import look_at_gates
from replicator.switchover.phases import CUTOVER, ROLLBACK, CutoverResult, Phase
from tests.engine import reference
from tests.fix_postgres import Database
from tests.reference import seed
from tests.waiting import running, until


class Running:
    """A session of the daemon inside the test."""

    def __init__(self, settings: Settings, migration: Migration, hooks: Hooks | None = None) -> None:
        self.settings = settings
        self.session = Session(settings, migration, Metrics(), Reporter(migration.name), hooks=hooks)
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.session.run(self.stop))
        self.steps: list[str] = []

    async def until(self, condition: Any) -> None:
        """Wait for a condition; raises what the session raises."""
        await until(condition, alive=running(self.task))

    @property
    def active(self) -> Pipeline | None:
        """The active pipeline, once there is one."""
        return self.session.pipelines.active

    async def ready(self) -> None:
        """All gates but the lag's patience."""
        await self.until(lambda: self.session.phase.now == Phase.FOLLOW)
        await self.until(lambda: self.active is not None and self.active.verifier.clean)

    async def report(self, step: str) -> None:
        self.steps.append(step)

    async def cut_over(self, **how: Any) -> CutoverResult:
        return await self.session.switchovers.run(CUTOVER, self.report, **how)

    async def roll_back(self, *, dry_run: bool = False) -> CutoverResult:
        return await self.session.switchovers.run(ROLLBACK, self.report, dry_run=dry_run)

    async def clean(self) -> None:
        """A full pass of the pipeline that is active now was clean."""
        await self.until(lambda: self.active is not None and self.active.verifier.clean)

    async def compared(self) -> None:
        """What has changed past the log by now is noticed, and compared: a pass that was clean before tells nothing."""
        await self.until(lambda: self.active is not None)
        for pipeline in self.session.pipelines:
            await pipeline.look_at_definitions()
        await self.until(lambda: not any(each.context.unseen for each in self.session.pipelines))
        await self.until(
            lambda: self.session.phase.now == Phase.ROLLING or (self.active and self.active.verifier.clean)
        )

    async def in_the_end(self, move: Callable[[], Awaitable[CutoverResult]]) -> CutoverResult:
        """Move once all is compared: again where what has changed past the log is noticed only under the lock."""
        while True:
            await self.compared()
            try:
                return await move()
            except NotReadyError as error:
                if "past the log" not in error.problem and "Not closed to others" not in error.problem:
                    raise


@contextlib.asynccontextmanager
async def daemon(
    settings: Settings, migration: Migration | None = None, hooks: Hooks | None = None
) -> AsyncIterator[Running]:
    made = Running(settings, migration or reference(), hooks)
    try:
        yield made
    finally:
        made.stop.set()
        await asyncio.gather(made.task, return_exceptions=True)


def of(running: Running) -> Any:
    assert running.active is not None
    return running.active


async def gate(running: Running, settings: Settings, name: str = "ground") -> Any:
    async with connection(settings.target, "test") as target:
        gates = await look_at_gates(of(running), Phase.FOLLOW, settings, target)
    return next(each for each in gates if each.name == name)


async def silent(_: str) -> None:
    """Report to nobody."""


async def soaking(database: Database, settings: Any) -> None:
    """Leave the migration in the soak, with no daemon."""
    seed(database.dsn)
    async with daemon(settings) as running:
        await running.ready()
        await running.cut_over()
