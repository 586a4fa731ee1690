"""The pipelines of one session: opened and closed here, and which one is active."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from replicator.core.epochs import LeaseEpoch
from replicator.daemon.current_phase import CurrentPhase
from replicator.daemon.mending import mend
from replicator.daemon.stages import verify
from replicator.daemon.validating import validate_edges
from replicator.errors import ReplicatorError
from replicator.mapping.plan import Plan
from replicator.migration import Direction, Migration
from replicator.observe.counting import count_into
from replicator.observe.metrics import Metrics
from replicator.pipeline.pipeline import Pipeline
from replicator.pipeline.setup import Ends, read_plan
from replicator.postgres.control.progress import drop_progress, read_progress, write_reconciled
from replicator.postgres.session.connect import connection
from replicator.postgres.wire.slots import drop_publication, drop_slot
from replicator.runtime.supervisor import Supervisor
from replicator.settings import Settings
from replicator.switchover.bidirectional import Bidirectional
from replicator.switchover.handover import owner_now
from replicator.switchover.phases import Phase


class Pipelines:
    """Opens, closes and drops pipelines, and runs the tasks beside them; each task ends the session if it fails."""

    def __init__(
        self, settings: Settings, migration: Migration, metrics: Metrics, supervisor: Supervisor, phase: CurrentPhase
    ) -> None:
        self._settings = settings
        self._migration = migration
        self._metrics = metrics
        self._supervisor = supervisor
        self._phase = phase
        self._open: dict[Direction, Pipeline] = {}
        self.active: Pipeline | None = None
        """Forward before the cutover, reverse after it; forward while both schemas take writes."""
        self.both: Bidirectional | None = None
        """Set while both schemas take writes."""
        self.names = asyncio.Lock()
        """Held while tables are renamed, and by whoever reads tables by names that must not change meanwhile."""
        self._epochs: dict[str, LeaseEpoch] = {}

    def __iter__(self) -> Iterator[Pipeline]:
        """Those that are open."""
        return iter(list(self._open.values()))

    def get(self, direction: Direction) -> Pipeline | None:
        """The open pipeline of this direction, if there is one."""
        return self._open.get(direction)

    @property
    def opposite(self) -> Pipeline | None:
        """The reverse pipeline, while both schemas take writes."""
        return self._open.get("reverse") if self._phase.now == Phase.ROLLING else None

    def leased(self, dsn: str, epoch: LeaseEpoch) -> None:
        """Pipelines that write to this database do so under this epoch of the lease."""
        self._epochs[dsn] = epoch

    def epoch_on(self, dsn: str) -> LeaseEpoch:
        """The epoch of the lease on a database."""
        return self._epochs[dsn]

    async def open(
        self, direction: Direction, before_it_follows: Callable[[Pipeline], Awaitable[None]] | None = None
    ) -> Pipeline:
        """Let a pipeline follow from its stored progress. Raises SlotError when its slot does not go on there."""
        plan = await read_plan(self._settings, self._migration, direction)
        ends = Ends.of(self._settings, direction)
        async with connection(ends.target_dsn, "resume") as target:
            progress = await read_progress(target, direction)
        if progress is None:
            raise ReplicatorError(
                f"The {direction} pipeline has no stored progress in the phase {self._phase.now}.",
                "The control tables have been changed by hand; start the migration anew.",
            )
        pipeline = Pipeline(
            self._settings, plan, progress, self._epochs[ends.target_dsn], count_into(self._metrics, direction),
            await self._opposite_plan(direction),
        )  # fmt: skip
        self._open[direction] = pipeline
        await pipeline.open()
        if before_it_follows is not None:
            await before_it_follows(pipeline)
        self._supervisor.start(f"{direction} pipeline", pipeline.follow())
        return pipeline

    async def _opposite_plan(self, direction: Direction) -> Plan | None:
        """Once ownership moves, the target holds rows of its own; before that, what we have not written is wrong."""
        if direction == "forward" and (await owner_now(self._settings)).epoch == 0:
            return None
        return await read_plan(self._settings, self._migration, "reverse" if direction == "forward" else "forward")

    async def close(self, direction: Direction) -> None:
        """Stop a pipeline, if it is open, and return its connections."""
        await self._supervisor.stop(f"{direction} pipeline")
        pipeline = self._open.pop(direction, None)
        if pipeline is not None:
            await pipeline.close()
            await pipeline.verifier.close()

    async def close_all(self) -> None:
        """Close each pipeline that is open."""
        for direction in list(self._open):
            await self.close(direction)

    async def drop(self, direction: Direction) -> None:
        """Remove a pipeline's slot and publication, and all that it has stored."""
        ends = Ends.of(self._settings, direction)
        async with connection(ends.source_dsn, "clean up") as source:
            await drop_slot(source, ends.slot)
            await drop_publication(source, ends.publication)
        async with connection(ends.target_dsn, "clean up") as target:
            await drop_progress(target, direction, keep_discarded=True)

    # ---- while both schemas take writes

    async def open_both(self) -> Bidirectional:
        """Let both pipelines follow, each under an origin of its own."""
        both = Bidirectional(self._settings)
        await both.prepare()
        self.active = await self.open("forward", both.roll)
        await self.open("reverse", both.roll)
        return both

    async def start_rolling(self, both: Bidirectional) -> None:
        """Both schemas take writes from now on: new rows may hold what old ones cannot give."""
        self.both = both
        async with connection(self._settings.target, "rolling") as target:
            await write_reconciled(target, "forward", reconciled=False)
        forward = self._open["forward"]
        forward.progress = replace(forward.progress, reconciled=False)
        self._supervisor.start("rolling", both.run())

    async def stop_rolling(self) -> None:
        """Derive nothing again any more."""
        if self._supervisor.running("rolling") and self.both is not None:
            await self.both.end()

    async def forget_both(self, stays: Pipeline | None) -> None:
        """Only one schema takes writes from now on. ``stays``: the pipeline that goes on, if it is open."""
        both, self.both = self.both, None
        if both is not None:
            if stays is not None:
                await stays.stop_rolling()
            await both.clear()

    # ---- verification of the active pipeline

    def start_verifying(self) -> None:
        """Verify the active pipeline again and again, unless that runs; validate new foreign keys too."""
        if not self._supervisor.running("foreign keys"):
            self._supervisor.start("foreign keys", validate_edges(self._settings))
        if self.active is not None and not self._supervisor.running("verify"):
            self._supervisor.start("verify", verify(self.active))

    def start_mending(self) -> None:
        """While both schemas take writes, compare what has changed past the log, unless that runs."""
        if self.both is not None and not self._supervisor.running("verify"):
            self._supervisor.start("verify", mend(self.both))

    async def stop_verifying(self) -> None:
        """Stop it where it is; what it remembers stays."""
        await self._supervisor.stop("verify")

    def compare_all(self) -> None:
        """Compare all rows of the active pipeline again: some may have changed past the log."""
        if self.active is not None:
            self.active.compare_all()
