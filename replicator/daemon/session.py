"""One life of the daemon: it holds the leases, and does what the phase needs until it is stopped or something fails."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from replicator.daemon.hooks import Hooks, Moment
from replicator.daemon.mending import mend
from replicator.daemon.report import Reporter, report_on
from replicator.daemon.requests import Commands
from replicator.daemon.stages import until_follow, verify
from replicator.daemon.switchovers import Switchovers
from replicator.daemon.validating import validate_edges
from replicator.errors import ReplicatorError, unexpected
from replicator.mapping.forgotten import refuse_forgotten
from replicator.mapping.plan import Plan
from replicator.migration import Direction, Migration
from replicator.observe.counting import count_into
from replicator.observe.metrics import Metrics
from replicator.observe.status import process_details
from replicator.pipeline.pipeline import Pipeline
from replicator.pipeline.setup import read_plan, set_up_slot
from replicator.postgres.control.control import install, last_pause, read_phase, write_phase
from replicator.postgres.control.journal import enter
from replicator.postgres.control.lease import Lease
from replicator.postgres.control.ownership import read_ownership
from replicator.postgres.control.progress import read_progress, write_reconciled
from replicator.postgres.session.connect import connection
from replicator.runbook import schema
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.log import get_logger
from replicator.runtime.supervisor import Supervisor
from replicator.settings import Settings
from replicator.switchover.bidirectional import Bidirectional
from replicator.switchover.closing import close_again, close_as_before, keep_closed
from replicator.switchover.handover import owner_now
from replicator.switchover.phases import MOVING, Phase, check_transition

log = get_logger("session")

STATUS_SECONDS = 1.0
CLOSED_SECONDS = 2.0
"""Between two looks at what is closed to the application."""


class Session:
    """One life of the daemon, from taking the lease to losing it."""

    def __init__(
        self,
        settings: Settings,
        migration: Migration,
        metrics: Metrics,
        reporter: Reporter,
        on_up: Callable[[], None] = lambda: None,
        hooks: Hooks | None = None,
    ) -> None:
        self.settings = settings
        self.migration = migration
        self.metrics = metrics
        self.reporter = reporter
        self.hooks = hooks or Hooks(settings, migration, metrics)
        self._on_up = on_up
        self.phase = Phase.NEW
        self.was_up = False
        self.up = asyncio.Event()
        self.entered = False
        """The journal knows of it: it wants to know of its end too."""
        self.pipeline: Pipeline | None = None
        """The active one: forward before the cutover, reverse after it; forward while both schemas take writes."""
        self.both: Bidirectional | None = None
        """Set while both schemas take writes."""
        self.names = asyncio.Lock()
        """Held while tables are renamed, and while somebody needs that they are not."""
        self.switchovers = Switchovers(self)
        self._stack = AsyncExitStack()
        self._supervisor = Supervisor()
        self._epochs: dict[str, int] = {}
        self.pipelines: dict[Direction, Pipeline] = {}
        """Those at work."""

    @property
    def opposite(self) -> Pipeline | None:
        """The reverse pipeline, while both schemas take writes."""
        return self.pipelines.get("reverse") if self.phase == Phase.ROLLING else None

    async def run(self, stop: asyncio.Event) -> None:
        """Set up what is missing, then work until ``stop``, or until a task fails."""
        self._stop = stop
        try:
            self._supervisor.start("stop", _until(stop))
            self._supervisor.start("start", self._start())
            await self._supervisor.wait(ending="stop")
        finally:
            await self._supervisor.stop_all()
            await self._stack.aclose()

    async def enter_phase(self, phase: Phase, *, rehearsed: bool = False) -> None:
        """Store the next phase, and let the hooks know, unless it is only rehearsed."""
        check_transition(self.phase, phase)
        async with connection(self.settings.target, "phase") as target:
            await reach(Failpoint.PHASE_COMING)
            await write_phase(target, phase)
            await reach(Failpoint.PHASE_STORED)
            owner = await read_ownership(target)
        if not rehearsed:
            self.hooks.after(phase, Moment.of(self.phase, phase, owner))
        self.phase = phase
        log.info("phase", phase=str(phase))

    # ---- starting

    async def _start(self) -> None:
        await self._take_leases()
        await enter(self.settings.target, "start", process_details())
        self.entered = True
        self._supervisor.start("report", report_on(self))
        self._stack.push_async_callback(self._close_pipelines)
        await self._resume()
        if self.phase == Phase.FINALIZED:
            log.info("the migration is over: `replicator finalize` removes what may be left")
            self.end()
            return
        await reach(Failpoint.RESUMED)
        self.was_up = True
        self._on_up()
        self.up.set()
        self._supervisor.start("commands", Commands(self).run())
        self._supervisor.start("guards", keep_closed(self.settings, CLOSED_SECONDS, self._close_again))

    async def _take_leases(self) -> None:
        for dsn in dict.fromkeys((self.settings.target, self.settings.source)):
            async with connection(dsn, "set up") as control:
                await install(control, self.migration)
            lease = await Lease.acquire(dsn)
            self._stack.push_async_callback(lease.release)
            self._epochs[dsn] = lease.epoch
            await reach(Failpoint.LEASED)
            self._supervisor.start(f"lease {len(self._epochs)}", lease.watch())

    async def _resume(self) -> None:
        async with connection(self.settings.target, "resume") as target:
            stored = await read_phase(target)
            self.reporter.pause_seconds = await last_pause(target)
        self.phase = Phase(stored) if stored else Phase.NEW
        await reach(Failpoint.RESUMING)
        if self.phase in MOVING:
            await self.switchovers.settle()
        if self.phase == Phase.NEW:
            await self._set_up()
        elif self.phase != Phase.FINALIZED:
            await close_as_before(self.settings, self.migration)
        if self.phase == Phase.ROLLING:
            await self.start_rolling(await self.open_both())
            self.start_mending()
        elif self.phase == Phase.SOAK:
            self.pipeline = await self.open_pipeline("reverse")
            self.start_verifying()
        elif self.phase != Phase.FINALIZED:
            self.pipeline = await self.open_pipeline("forward")
            self._supervisor.start("stages", self._stages(self.pipeline))

    async def _set_up(self) -> None:
        await schema.build(self.settings, self.migration, ["tables"])
        await reach(Failpoint.TABLES_MADE)
        plan = await read_plan(self.settings, self.migration, "forward")
        refuse_forgotten(plan)
        refuse_forgotten(await read_plan(self.settings, self.migration, "reverse"))  # the cutover would be refused
        await set_up_slot(self.settings, plan)
        await self.enter_phase(Phase.BACKFILL)

    async def open_both(self) -> Bidirectional:
        """Let both pipelines follow, each under an origin of its own."""
        both = Bidirectional(self.settings)
        await both.prepare()
        self.pipeline = await self.open_pipeline("forward", both.roll)
        await self.open_pipeline("reverse", both.roll)
        return both

    async def start_rolling(self, both: Bidirectional) -> None:
        """Both schemas take writes from now on: new rows may hold what old ones cannot give."""
        self.both = both
        async with connection(self.settings.target, "rolling") as target:
            await write_reconciled(target, "forward", reconciled=False)
        forward = self.pipelines["forward"]
        forward.progress = replace(forward.progress, reconciled=False)
        self._supervisor.start("rolling", both.run())

    async def stop_rolling(self) -> None:
        """Let nothing be derived again any more."""
        if self._supervisor.running("rolling") and self.both is not None:
            await self.both.end()

    async def open_pipeline(
        self, direction: Direction, before_it_follows: Callable[[Pipeline], Awaitable[None]] | None = None
    ) -> Pipeline:
        """Let a pipeline follow from its stored progress. Raises SlotError when its slot does not go on there."""
        plan = await read_plan(self.settings, self.migration, direction)
        target_dsn = self.settings.target if direction == "forward" else self.settings.source
        async with connection(target_dsn, "resume") as target:
            progress = await read_progress(target, direction)
        if progress is None:
            raise ReplicatorError(
                f"The {direction} pipeline has no stored progress in the phase {self.phase}.",
                "The control tables have been changed by hand; start the migration anew.",
            )
        pipeline = Pipeline(
            self.settings, plan, progress, self._epochs[target_dsn], count_into(self.metrics, direction),
            await self._opposite_plan(direction),
        )  # fmt: skip
        self.pipelines[direction] = pipeline
        await pipeline.open()
        if before_it_follows is not None:
            await before_it_follows(pipeline)
        self._supervisor.start(f"{direction} pipeline", pipeline.follow())
        return pipeline

    def epoch_on(self, dsn: str) -> int:
        """The epoch of the lease on a database."""
        return self._epochs[dsn]

    async def _opposite_plan(self, direction: Direction) -> Plan | None:
        """Once ownership moves, the target holds rows of its own; before that, what we have not written is wrong."""
        if direction == "forward" and (await owner_now(self.settings)).epoch == 0:
            return None
        return await read_plan(self.settings, self.migration, "reverse" if direction == "forward" else "forward")

    async def close_pipeline(self, direction: Direction) -> None:
        """Stop a pipeline, if it is at work, and give its connections back."""
        await self._supervisor.stop(f"{direction} pipeline")
        pipeline = self.pipelines.pop(direction, None)
        if pipeline is not None:
            await pipeline.close()
            await pipeline.verifier.close()

    async def _close_pipelines(self) -> None:
        for direction in list(self.pipelines):
            await self.close_pipeline(direction)

    def fail(self, error: BaseException) -> None:
        """End this session with an error; the next one reads from the tables where things stand."""
        if not isinstance(error, asyncio.CancelledError):  # cancelled: the session ends anyhow
            self._supervisor.start("failure", _raise(error))

    def end(self) -> None:
        """End the daemon in good order: there is nothing left to do."""
        self._stop.set()

    def paused(self, seconds: float) -> None:
        """Writers have been held for so long."""
        self.reporter.pause_seconds = seconds
        self.metrics.cutover_write_pause_seconds.set(seconds)

    async def _close_again(self) -> bool:
        return await close_again(self.settings, self._compare_all)

    def _compare_all(self) -> None:
        if self.pipeline is not None:
            self.pipeline.compare_all()

    # ---- the stages before the cutover

    async def _stages(self, pipeline: Pipeline) -> None:
        await until_follow(self.settings, self.migration, pipeline, self.phase, self.enter_phase)
        self.start_verifying()

    def start_verifying(self) -> None:
        """Let the verification of the active pipeline go round, if it does not; of new foreign keys, too."""
        if not self._supervisor.running("foreign keys"):
            self._supervisor.start("foreign keys", validate_edges(self.settings))
        if self.pipeline is not None and not self._supervisor.running("verify"):
            self._supervisor.start("verify", verify(self.pipeline))

    def start_mending(self) -> None:
        """While both schemas take writes, let what has changed past the log be compared, if it is not."""
        if self.both is not None and not self._supervisor.running("verify"):
            self._supervisor.start("verify", mend(self.both))

    async def stop_verifying(self) -> None:
        """Stop it where it is; what it remembers stays."""
        await self._supervisor.stop("verify")


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def _raise(error: BaseException) -> None:
    raise (
        error
        if isinstance(error, ReplicatorError)
        else ReplicatorError(f"The move of ownership ended with an {unexpected(error)}.")
    )
