"""One life of the daemon: it holds the leases, and does what the phase needs until it is stopped or something fails."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack

from replicator.daemon.current_phase import CurrentPhase
from replicator.daemon.hooks import Hooks
from replicator.daemon.pipelines import Pipelines
from replicator.daemon.report import Reporter, report_on
from replicator.daemon.requests import Commands, Gates
from replicator.daemon.stages import until_follow
from replicator.daemon.switchovers import Switchovers
from replicator.errors import ReplicatorError, unexpected
from replicator.mapping.forgotten import refuse_forgotten
from replicator.migration import Migration
from replicator.observe.metrics import Metrics
from replicator.observe.status import process_details
from replicator.pipeline.pipeline import Pipeline
from replicator.pipeline.setup import read_plan, set_up_slot
from replicator.postgres.control.control import install, last_pause, read_phase
from replicator.postgres.control.journal import record
from replicator.postgres.control.lease import Lease
from replicator.postgres.session.connect import connection
from replicator.runbook import schema
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.log import get_logger
from replicator.runtime.loop_lag import watch_loop
from replicator.runtime.supervisor import Supervisor
from replicator.settings import Settings
from replicator.switchover.closing import close_again, close_as_before, keep_closed
from replicator.switchover.phases import MOVING, Phase

log = get_logger("session")

CLOSED_SECONDS = 2.0
"""Between two looks at what is closed to the application."""


class Session:
    """One life of the daemon, from taking the lease to losing it. It composes the parts, which do not know it."""

    def __init__(
        self,
        settings: Settings,
        migration: Migration,
        metrics: Metrics,
        reporter: Reporter,
        on_up: Callable[[], None] = lambda: None,
        hooks: Hooks | None = None,
    ) -> None:
        self._settings = settings
        self._migration = migration
        self._on_up = on_up
        self._stack = AsyncExitStack()
        self._supervisor = Supervisor()
        self.metrics = metrics
        self.reporter = reporter
        self.hooks = hooks or Hooks(settings, migration, metrics)
        self.phase = CurrentPhase(settings, self.hooks)
        self.pipelines = Pipelines(settings, migration, metrics, self._supervisor, self.phase)
        self.switchovers = Switchovers(
            settings, migration, self.pipelines, self.phase, self.hooks, paused=self._paused, fail=self._fail
        )
        self.gates = Gates(settings=settings, phase=self.phase, pipelines=self.pipelines, reporter=reporter)
        self.up = asyncio.Event()
        """It has resumed, and answers the commands."""
        self.entered = False
        """The journal knows of it: it wants to know of its end too."""

    async def run(self, stop: asyncio.Event) -> None:
        """Set up what is missing, then work until ``stop``, or until a task fails."""
        self._stop = stop
        try:
            self._supervisor.start("stop", _until(stop))
            self._supervisor.start("loop lag", watch_loop(self.metrics.loop_lag_seconds.observe))
            self._supervisor.start("start", self._start())
            await self._supervisor.wait(ending="stop")
        finally:
            await self._supervisor.stop_all()
            await self._stack.aclose()

    # ---- starting

    async def _start(self) -> None:
        await self._take_leases()
        await record(self._settings.target, "start", process_details())
        self.entered = True
        self._supervisor.start("report", self._report())
        self._stack.push_async_callback(self.pipelines.close_all)
        await self._resume()
        if self.phase.now == Phase.FINALIZED:
            log.info("the migration is over: `replicator finalize` removes what may be left")
            self._stop.set()
            return
        await reach(Failpoint.RESUMED)
        self._on_up()
        self.up.set()
        self._supervisor.start("commands", self._commands().run())
        closing = keep_closed(self._settings, CLOSED_SECONDS, self._close_again)
        self._supervisor.start("guards", closing)

    def _report(self) -> Coroutine[None, None, None]:
        return report_on(
            self._settings, self._migration, self.metrics, self.reporter, self.phase, self.pipelines,
            self.switchovers.held_up, self.up,
        )  # fmt: skip

    def _commands(self) -> Commands:
        return Commands(
            self._settings, self._migration, self.phase, self.pipelines, self.switchovers, self.gates,
            refused=self._refused, over=self._over,
        )  # fmt: skip

    async def _take_leases(self) -> None:
        for number, dsn in enumerate(dict.fromkeys((self._settings.target, self._settings.source)), 1):
            async with connection(dsn, "set up") as control:
                await install(control, self._migration)
            lease = await Lease.acquire(dsn)
            self._stack.push_async_callback(lease.release)
            self.pipelines.leased(dsn, lease.epoch)
            await reach(Failpoint.LEASED)
            self._supervisor.start(f"lease {number}", lease.watch())

    async def _resume(self) -> None:
        async with connection(self._settings.target, "resume") as target:
            stored = await read_phase(target)
            self.reporter.pause_seconds = await last_pause(target)
        self.phase.now = Phase(stored) if stored else Phase.NEW
        await reach(Failpoint.RESUMING)
        if self.phase.now in MOVING:
            await self.switchovers.settle()
        if self.phase.now == Phase.NEW:
            await self._set_up()
        elif self.phase.now != Phase.FINALIZED:
            await close_as_before(self._settings, self._migration)
        if self.phase.now == Phase.ROLLING:
            await self.pipelines.start_rolling(await self.pipelines.open_both())
            self.pipelines.start_mending()
        elif self.phase.now == Phase.SOAK:
            self.pipelines.active = await self.pipelines.open("reverse")
            self.pipelines.start_verifying()
        elif self.phase.now != Phase.FINALIZED:
            self.pipelines.active = await self.pipelines.open("forward")
            self._supervisor.start("stages", self._stages(self.pipelines.active))

    async def _set_up(self) -> None:
        await schema.build(self._settings, self._migration, ["tables"])
        await reach(Failpoint.TABLES_MADE)
        plan = await read_plan(self._settings, self._migration, "forward")
        refuse_forgotten(plan)
        # Else the cutover would be refused, after a backfill that may have taken days.
        refuse_forgotten(await read_plan(self._settings, self._migration, "reverse"))
        await set_up_slot(self._settings, plan)
        await self.phase.enter(Phase.BACKFILL)

    async def _stages(self, pipeline: Pipeline) -> None:
        await until_follow(self._settings, self._migration, pipeline, self.phase.now, self.phase.enter)
        self.pipelines.start_verifying()

    # ---- what the parts tell

    async def _close_again(self) -> bool:
        return await close_again(self._settings, self.pipelines.compare_all)

    def _fail(self, error: BaseException) -> None:
        """End this session with an error; the next one reads from the tables where things stand."""
        if not isinstance(error, asyncio.CancelledError):  # cancelled: the session ends anyhow
            self._supervisor.start("failure", _raise(error))

    async def _over(self) -> None:
        """The migration is finalized: the daemon ends in good order."""
        await self.hooks.finish()
        self._stop.set()

    def _paused(self, seconds: float) -> None:
        """Writers have been held for so long."""
        self.reporter.pause_seconds = seconds
        self.metrics.cutover_write_pause_seconds.set(seconds)

    def _refused(self, error: ReplicatorError) -> None:
        """A request failed with an error that an operator should see in the status."""
        self.reporter.failed(error)
        self.metrics.errors_total.labels(error.kind).inc()


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def _raise(error: BaseException) -> None:
    raise (
        error
        if isinstance(error, ReplicatorError)
        else ReplicatorError(f"The move of ownership ended with an {unexpected(error)}.")
    )
