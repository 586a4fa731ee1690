"""One life of the daemon: it holds the leases, and does what the phase needs until it is stopped or something fails."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from replicator import schema
from replicator.commands import Commands
from replicator.cutover import Cutover, CutoverResult, Report, activate, activation_marker, latest, owner_now
from replicator.errors import CheckError, ReplicatorError
from replicator.failpoints import Failpoint, reach
from replicator.log import get_logger
from replicator.migration import Direction, Migration
from replicator.observe.counting import count_into
from replicator.observe.metrics import Metrics
from replicator.observe.status import process_details, publish
from replicator.phases import Phase, check_transition
from replicator.pipeline import Pipeline
from replicator.postgres.catalog import live_rows
from replicator.postgres.connect import connection
from replicator.postgres.control import install, last_pause, read_phase, write_phase, write_status
from replicator.postgres.journal import enter
from replicator.postgres.lease import Lease
from replicator.postgres.ownership import read_ownership
from replicator.postgres.progress import drop_progress, read_progress
from replicator.postgres.slots import drop_publication, drop_slot
from replicator.report import Reporter
from replicator.settings import Settings
from replicator.setup import read_plan, set_up_slot
from replicator.supervisor import Supervisor

log = get_logger("session")

STATUS_SECONDS = 1.0


class Session:
    """One life of the daemon, from taking the lease to losing it."""

    def __init__(
        self,
        settings: Settings,
        migration: Migration,
        metrics: Metrics,
        reporter: Reporter,
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.migration = migration
        self.metrics = metrics
        self.reporter = reporter
        self._on_up = on_up
        self.committing = False
        """A cutover's commit is on its way: it can no longer be cancelled."""
        self.phase = Phase.NEW
        self.was_up = False
        self.entered = False
        """The journal knows of it: it wants to know of its end too."""
        self.pipeline: Pipeline | None = None
        """The active one: forward before the cutover, reverse after it."""
        self._stack = AsyncExitStack()
        self._supervisor = Supervisor()
        self._epochs: dict[str, int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Set up what is missing, then work until ``stop``, or until a task fails."""
        try:
            self._supervisor.start("stop", _until(stop))
            self._supervisor.start("start", self._start())
            await self._supervisor.wait(ending="stop")
        finally:
            await self._supervisor.stop_all()
            await self._stack.aclose()

    async def enter_phase(self, phase: Phase) -> None:
        """Store the next phase."""
        check_transition(self.phase, phase)
        async with connection(self.settings.target, "phase") as target:
            await reach(Failpoint.PHASE_COMING)
            await write_phase(target, phase)
            await reach(Failpoint.PHASE_STORED)
        self.phase = phase
        log.info("phase", phase=str(phase))

    # ---- starting

    async def _start(self) -> None:
        await self._take_leases()
        await enter(self.settings.target, "start", process_details())
        self.entered = True
        await self._resume()
        await reach(Failpoint.RESUMED)
        self.was_up = True
        self._on_up()
        self._supervisor.start("report", self._report())
        self._supervisor.start("commands", Commands(self).run())

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
        if self.phase == Phase.CUTOVER:
            await self._settle_cutover()
        if self.phase == Phase.NEW:
            await self._set_up()
        if self.phase == Phase.SOAK:
            self.pipeline = await self._open_pipeline("reverse")
            self.start_verifying()
        else:
            self.pipeline = await self._open_pipeline("forward")
            self._supervisor.start("stages", self._stages(self.pipeline))

    async def _set_up(self) -> None:
        await schema.build(self.settings, self.migration, ["tables"])
        await reach(Failpoint.TABLES_MADE)
        plan = await read_plan(self.settings, self.migration, "forward")
        await set_up_slot(self.settings, plan)
        await self.enter_phase(Phase.BACKFILL)

    async def _settle_cutover(self) -> None:
        """A cutover was under way when the last daemon ended: the state row says whether it has happened."""
        ownership = await owner_now(self.settings)
        await reach(Failpoint.SETTLING)
        if ownership.owner == "new":
            plan = await read_plan(self.settings, self.migration, "forward")
            await activate(self.settings, list(plan.targets), ownership)
            await self._retire_forward()
            await self.enter_phase(Phase.SOAK)
        else:
            await self._drop_pipeline("reverse")
            await self.enter_phase(Phase.FOLLOW)

    async def _open_pipeline(self, direction: Direction) -> Pipeline:
        plan = await read_plan(self.settings, self.migration, direction)
        target_dsn = self.settings.target if direction == "forward" else self.settings.source
        async with connection(target_dsn, "resume") as target:
            progress = await read_progress(target, direction)
        if progress is None:
            raise ReplicatorError(
                f"The {direction} pipeline has no stored progress in the phase {self.phase}.",
                "The control tables have been changed by hand; start the migration anew.",
            )
        pipeline = Pipeline(self.settings, plan, progress, self._epochs[target_dsn], count_into(self.metrics))
        self._stack.push_async_callback(pipeline.close)
        self._stack.push_async_callback(pipeline.verifier.close)
        await pipeline.open()
        self._supervisor.start(f"{direction} pipeline", pipeline.follow())
        return pipeline

    # ---- the stages before the cutover

    async def _stages(self, pipeline: Pipeline) -> None:
        if self.phase == Phase.BACKFILL:
            await pipeline.backfill()
            await self.enter_phase(Phase.BUILD)
        if self.phase == Phase.BUILD:
            await schema.build(
                self.settings, self.migration, ["indexes", "constraints"], lambda line: log.info("building", what=line)
            )
            await pipeline.reload_plan(await read_plan(self.settings, self.migration, "forward"))
            await self.enter_phase(Phase.FOLLOW)
        self.start_verifying()
        await asyncio.Event().wait()

    def start_verifying(self) -> None:
        """Let the verification of the active pipeline go round."""
        if self.pipeline is not None:
            self._supervisor.start("verify", self.pipeline.verify())

    async def stop_verifying(self) -> None:
        """Stop it where it is; what it remembers stays."""
        await self._supervisor.stop("verify")

    # ---- the cutover

    async def cut_over(self, report: Report) -> CutoverResult:
        """Move ownership to the new schema. The gates hold: the caller has looked. Raises as ``Cutover.run``."""
        forward = self.pipeline
        if forward is None or self.phase != Phase.FOLLOW:
            raise CheckError(f"There is nothing to cut over in the phase {self.phase}.")
        await self.enter_phase(Phase.CUTOVER)
        try:
            return await self._cut_over(forward, report)
        except BaseException as error:
            await self._after_failure(error)
            raise

    async def _cut_over(self, forward: Pipeline, report: Report) -> CutoverResult:
        await report("preparing the way back: the reverse slot waits for the transactions that run now")
        reverse = await self._prepare_reverse()
        await reach(Failpoint.OPPOSITE_MADE)
        await report("preparing the way back: reading what it must remember")
        await reverse.backfill()
        await reach(Failpoint.OPPOSITE_FILLED)
        await self.stop_verifying()
        await forward.verifier.open()
        result = await Cutover(self.settings, forward, report, self._commits).run()
        await self._after_commit(forward, reverse, result)
        return result

    def _commits(self) -> None:
        self.committing = True

    async def _after_failure(self, error: BaseException) -> None:
        """Go back to following if nothing has moved; else end this session: the next one reads the state row."""
        try:
            if (await owner_now(self.settings)).owner == "old":
                await self._take_back()
                return
        except ReplicatorError as second:
            error = second
        if not isinstance(error, asyncio.CancelledError):  # cancelled: the session ends anyhow
            self._supervisor.start("cutover", _raise(error))

    async def _prepare_reverse(self) -> Pipeline:
        plan = await read_plan(self.settings, self.migration, "reverse")
        epoch = (await owner_now(self.settings)).epoch + 1
        await set_up_slot(self.settings, plan, start_marker=activation_marker(epoch))
        return await self._open_pipeline("reverse")

    async def _take_back(self) -> None:
        self.committing = False
        await reach(Failpoint.TAKING_BACK)
        await self._supervisor.stop("reverse pipeline")
        await self._drop_pipeline("reverse")
        await self.enter_phase(Phase.FOLLOW)
        if not self._supervisor.running("verify"):
            self.start_verifying()

    async def _after_commit(self, forward: Pipeline, reverse: Pipeline, result: CutoverResult) -> None:
        self.reporter.pause_seconds = result.write_pause_seconds
        self.metrics.cutover_write_pause_seconds.set(result.write_pause_seconds)
        await reach(Failpoint.ACTIVATING)
        await activate(self.settings, list(forward.context.plan.targets), await owner_now(self.settings))
        await reach(Failpoint.ACTIVATED)
        self.pipeline = reverse
        for name in ("verify", "stages", "forward pipeline"):
            await self._supervisor.stop(name)
        await forward.close()
        await self._retire_forward()
        await self.enter_phase(Phase.SOAK)
        self.start_verifying()

    async def _retire_forward(self) -> None:
        """The old tables are no longer a source: their slot must not keep WAL for ever."""
        await reach(Failpoint.RETIRING)
        await self._drop_pipeline("forward", keep_progress=True)
        await reach(Failpoint.RETIRED)

    async def _drop_pipeline(self, direction: Direction, *, keep_progress: bool = False) -> None:
        source_dsn = self.settings.source if direction == "forward" else self.settings.target
        target_dsn = self.settings.target if direction == "forward" else self.settings.source
        async with connection(source_dsn, "clean up") as source:
            await drop_slot(source, self.settings.slot_of(direction))
            await drop_publication(source, self.settings.publication_of(direction))
        if not keep_progress:
            async with connection(target_dsn, "clean up") as target:
                await drop_progress(target, direction)

    # ---- the report

    async def _report(self) -> None:
        async with (
            connection(self.settings.source, "status") as old,
            connection(self.settings.target, "status") as new,
        ):
            while True:
                reverse = self.pipeline is not None and self.pipeline.direction == "reverse"
                owner = latest(await read_ownership(old), await read_ownership(new)).owner
                document = await self.reporter.look(
                    self.pipeline, self.phase, owner, self.settings, old if reverse else new
                )
                publish(document, self.metrics)
                for side, reading, name in (("old", old, self.migration.old), ("new", new, self.migration.new)):
                    for table, rows in (await live_rows(reading, name)).items():
                        self.metrics.rows.labels(side, table).set(rows)
                await write_status(new, document)
                await asyncio.sleep(STATUS_SECONDS)


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def _raise(error: BaseException) -> None:
    raise error if isinstance(error, ReplicatorError) else ReplicatorError(f"The cutover ended with {error!r}.")
