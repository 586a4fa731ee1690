"""The cutover and the rollback, as a session goes about them: the way back first, then the move, then what is left."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from replicator.core.epochs import after
from replicator.core.markers import new_marker
from replicator.daemon.current_phase import CurrentPhase
from replicator.daemon.hooks import Hooks, Moment
from replicator.daemon.pipelines import Pipelines
from replicator.errors import CheckError, ReplicatorError
from replicator.mapping.forgotten import refuse_forgotten
from replicator.migration import Direction, Migration
from replicator.pipeline.pipeline import Pipeline
from replicator.pipeline.setup import all_tables, read_plan, set_up_slot
from replicator.preflight.hanging import Strategy
from replicator.runtime.failpoints import Failpoint, reach
from replicator.settings import Settings
from replicator.switchover.attempts import try_until_locked
from replicator.switchover.beforehand import see_that_it_may_begin
from replicator.switchover.bidirectional import OPPOSITE, Bidirectional
from replicator.switchover.cutover import Cutover
from replicator.switchover.handover import activate, announce, owner_now
from replicator.switchover.held_up import HeldUp
from replicator.switchover.phases import CutoverResult, Phase, Transition
from replicator.switchover.renaming import Renaming, RenamingStrategy, planned_renaming
from replicator.switchover.request import Report, SwitchoverRequest
from replicator.switchover.rolling import EndingStrategy, OpeningStrategy, prepare_new_side
from replicator.switchover.strategy import PlainStrategy, SwitchoverStrategy


class Switchovers:
    """Moves ownership for a session, and settles what a daemon that died in the middle has left."""

    def __init__(
        self,
        settings: Settings,
        migration: Migration,
        pipelines: Pipelines,
        phase: CurrentPhase,
        hooks: Hooks,
        *,
        paused: Callable[[float], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.settings = settings
        self.migration = migration
        self._pipelines = pipelines
        self._phase = phase
        self._hooks = hooks
        self._paused = paused
        self._fail = fail
        self.committing = False
        """A commit is on its way: it can no longer be cancelled."""
        self.taking_back = False
        """What was prepared is being removed: cancelled half-way, it would neither go on nor be as before."""
        self._bound: asyncio.Timeout | None = None
        self._report: Report = _tell_nobody
        self.renaming: Renaming | None = None
        """What the move that is under way renames."""
        self.held_up = HeldUp()

    async def run(
        self,
        move: Transition,
        report: Report,
        *,
        dry_run: bool = False,
        search_path_of: str | None = None,
        strategy: Strategy = "schema",
        bound: asyncio.Timeout | None = None,
    ) -> CutoverResult:
        """Move ownership. The gates hold: the caller has looked.

        :param dry_run: go through all of it, and roll back.
        :param search_path_of: a role whose ``search_path`` moves too.
        :param strategy: of a cutover; a rollback undoes what was done.
        :param bound: what cancels it when it takes too long; lifted just before the commit.
        :raises CheckError: in another phase than the one before the move, or when tables cannot be renamed.
        :raises NotReadyError: a fact of the ground is wrong.
        :raises ReplicatorError: as ``Cutover.run``; then nothing has moved.
        """
        self._bound, self._report = bound, report
        active = self._pipelines.get(move.direction)
        if active is None or self._phase.now != move.before:
            raise CheckError(f"There is no {move.name} in the phase {self._phase.now}.")
        await active.look_at_ground()  # the way back could not be prepared on tables that are not as they must be
        tables = await all_tables(self.settings, self.migration)
        names = self._pipelines.names
        self.renaming = await planned_renaming(self.settings, self.migration, move, tables, names, strategy)
        await see_that_it_may_begin(self.settings, self.migration, move, tables, search_path_of)
        await self._phase.enter(move.during, rehearsed=dry_run)
        try:
            result = await self._run(move, active, report, dry_run=dry_run, search_path_of=search_path_of)
            if dry_run:
                await self._take_back(move, rehearsed=True)
        except BaseException as error:
            await self._after_failure(move, error, dry_run)
            raise
        return result

    async def _run(
        self, move: Transition, active: Pipeline, report: Report, *, dry_run: bool, search_path_of: str | None
    ) -> CutoverResult:
        opposite = self._pipelines.get(move.opposite) if move.from_both else None
        if opposite is None:
            await report("preparing the way back: its slot waits for the transactions that run now")
            opposite = await self._prepare_opposite(move)
            await reach(Failpoint.OPPOSITE_MADE)
            await report("preparing the way back: reading what it must remember")
            await opposite.backfill()
            await reach(Failpoint.OPPOSITE_FILLED)
        if move.opens_both:
            await prepare_new_side(self.settings, active, opposite, report)
            await opposite.verifier.open()
        await self._pipelines.stop_verifying()
        await active.verifier.open()
        request = SwitchoverRequest(
            settings=self.settings,
            move=move,
            pipeline=active,
            opposite=opposite,
            tables=await all_tables(self.settings, self.migration),
            lease_epoch=self._pipelines.epoch_on(active.ends.source_dsn),
            report=report,
            on_commit=self._commits,
            dry_run=dry_run,
            search_path_of=search_path_of,
        )
        cutover = Cutover(request, self._strategy(move))
        if not dry_run:
            await self._ask_hooks(request)
        with self.held_up.during(move.name):
            result = await try_until_locked(cutover, self.held_up)
        if not dry_run:
            result = replace(result, dependents=await self._after_commit(cutover, result))
        return result

    def _strategy(self, move: Transition) -> SwitchoverStrategy:
        both = self._pipelines.both
        if self.renaming is not None:
            return RenamingStrategy(self.renaming)
        if both is None:
            return PlainStrategy()
        return OpeningStrategy(both) if move.opens_both else EndingStrategy(both)

    async def _ask_hooks(self, request: SwitchoverRequest) -> None:
        if not self._hooks.given:
            return
        await request.report("asking the hooks")
        move = request.move
        moment = Moment.of(move.during, move.after, await owner_now(self.settings))
        await self._hooks.before(f"before_{move.name}", moment)

    def _commits(self) -> None:
        if self._bound is not None:
            if self._bound.expired():
                raise asyncio.CancelledError  # as at the next wait: nothing is sent yet
            self._bound.reschedule(None)
        self.committing = True

    async def _prepare_opposite(self, move: Transition) -> Pipeline:
        plan = await read_plan(self.settings, self.migration, move.opposite)
        if move.opposite == "reverse":  # not before a rollback, which must not be held up by what a cutover would lose
            refuse_forgotten(await read_plan(self.settings, self.migration, "forward"))
            refuse_forgotten(plan)
        epoch = after((await owner_now(self.settings)).epoch)
        # Going back, the old rows count: new rows may hold what these cannot give. Going there, old rows are let be.
        await set_up_slot(
            self.settings,
            plan,
            start_marker=new_marker(epoch),
            reconciled=move.opposite == "reverse",
            tell=self._report,
        )
        if not move.opens_both:
            return await self._pipelines.open(move.opposite)
        both = self._pipelines.both = Bidirectional(self.settings)
        await both.prepare()
        return await self._pipelines.open(move.opposite, both.roll)

    async def _after_failure(self, move: Transition, error: BaseException, rehearsed: bool) -> None:
        """Go on as before if nothing has moved; else end this session: the next one reads the state row."""
        self.taking_back = True
        try:
            if not move.happened(await owner_now(self.settings)):
                await self._take_back(move, rehearsed=rehearsed)
                return
        except ReplicatorError as second:
            error = second
        finally:
            self.taking_back = False
        self._fail(error)

    async def _take_back(self, move: Transition, *, rehearsed: bool) -> None:
        self.committing = False
        await reach(Failpoint.TAKING_BACK)
        active = self._pipelines.get(move.direction)
        if active is not None:  # else the session ends already: its own error is the one to be told
            active.write_gate.resume()
        if self.renaming is not None:
            self.renaming.let_go()
        if not move.from_both:
            await self._pipelines.close(move.opposite)
            await self._pipelines.forget_both(self._pipelines.get(move.direction))
            await self._pipelines.drop(move.opposite)
        await self._phase.enter(move.before, rehearsed=rehearsed)
        if move.from_both:
            self._pipelines.start_mending()
        else:
            self._pipelines.start_verifying()

    async def _after_commit(self, cutover: Cutover, result: CutoverResult) -> tuple[str, ...]:
        """All that is due then; returns what goes on using the old tables."""
        request = cutover.request
        move, active, opposite = request.move, request.pipeline, request.opposite
        self._paused(result.write_pause_seconds)
        await reach(Failpoint.ACTIVATING)
        tables = await all_tables(self.settings, self.migration)
        await activate(self.settings, tables, await owner_now(self.settings))
        await reach(Failpoint.ACTIVATED)
        await announce(self.settings)
        if self._pipelines.both is not None:
            active.write_gate.resume()  # what the opposite pipeline writes is told by its origin
        if move.opens_both and self._pipelines.both is not None:
            active.context.opposite = opposite.context.plan
            await self._pipelines.start_rolling(self._pipelines.both)
            self._pipelines.start_mending()
        else:
            await self._leave(request)
        await self._phase.enter(move.after)
        left = await cutover.left_behind()
        self.committing = False
        if not move.opens_both:
            self._pipelines.start_verifying()
        return left

    async def _leave(self, request: SwitchoverRequest) -> None:
        """The source of the pipeline that was active takes no writes any more: the opposite one goes on alone."""
        move, active, opposite = request.move, request.pipeline, request.opposite
        if self._pipelines.both is not None:
            await request.report("deciding what both sides have written")
            await self._pipelines.both.settle()
        if self.renaming is not None:  # what these two know by name is called otherwise now
            await self._pipelines.close(active.direction)
            await self._pipelines.close(move.opposite)
            opposite = await self._pipelines.open(move.opposite)
        self._pipelines.active = opposite
        if self.renaming is not None:
            self.renaming.let_go()
        await self._pipelines.stop_verifying()
        await self._pipelines.stop_rolling()
        await self._pipelines.close(active.direction)
        await self._pipelines.forget_both(opposite)
        await self._retire(move.direction)

    async def settle(self) -> None:
        """A move was under way when the last daemon ended: the state row says whether it has happened."""
        ownership = await owner_now(self.settings)
        await reach(Failpoint.SETTLING)
        await activate(self.settings, await all_tables(self.settings, self.migration), ownership)
        await announce(self.settings)  # the last daemon may not have come to it
        if ownership.rolling:
            await self._phase.enter(Phase.ROLLING)
            return
        loser: Direction = "forward" if ownership.owner == "new" else "reverse"
        if ownership.settling:
            await self._settle_both()
        else:
            await Bidirectional(self.settings).clear()  # of an opening that did not come to its commit
        await self._retire(loser)
        await self._phase.enter(Phase.SOAK if ownership.owner == "new" else Phase.FOLLOW)

    async def _settle_both(self) -> None:
        """Both schemas took writes until then: let both pipelines run until nothing is left to decide."""
        both = await self._pipelines.open_both()
        await self._pipelines.start_rolling(both)
        await both.settle()
        await self._pipelines.stop_rolling()
        for direction in OPPOSITE:
            await self._pipelines.close(direction)
        await self._pipelines.forget_both(None)

    async def _retire(self, direction: Direction) -> None:
        """What was the source is a target now: its slot must not keep WAL for ever."""
        await reach(Failpoint.RETIRING)
        await self._pipelines.drop(direction)
        await reach(Failpoint.RETIRED)


async def _tell_nobody(_: str) -> None:
    """Until somebody asks for a move."""
