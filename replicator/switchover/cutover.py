"""The cutover: one transaction on the source that holds the writers, drains, checks, and moves ownership.

The rollback is the same with the sides swapped.

Before its commit, giving up costs a rollback and no write has failed; after it, ownership has moved. If the reply to
the commit is lost, the state row is read: never guessed, never retried blindly.
"""

import asyncio
import contextlib
from uuid import uuid4

from replicator.core.epochs import OwnershipEpoch, after
from replicator.core.tables import Name
from replicator.errors import ConnectionLostError, CutoverError, DatabaseError, ReplicatorError, RetryableError
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.control.ownership import (
    Ownership,
    limit_transaction,
    read_ownership,
    same_database,
    settled_ownership,
)
from replicator.postgres.control.progress import fence
from replicator.postgres.ddl.switching import switch
from replicator.postgres.locking.trees import oids_by_name
from replicator.postgres.session.committing import commit
from replicator.postgres.session.connect import Connection, connect, connection, translated
from replicator.preflight.security import refuse_losses
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.log import get_logger
from replicator.switchover.final_checks import check_under_lock
from replicator.switchover.foreseen import Foreseen, foresight_of
from replicator.switchover.handover import see_that_they_open
from replicator.switchover.neighbours import places_by_oid, settle_beside, tables_beside
from replicator.switchover.request import Attempt, SwitchoverRequest
from replicator.switchover.steps import Steps
from replicator.switchover.strategy import SwitchoverStrategy

log = get_logger("cutover")

LOCK_SECONDS = 0.5
"""How long an attempt may queue for the lock: every writer queues behind it."""
TELL_SECONDS = 5.0
"""For what is told when all is done."""


class Cutover:
    """The transaction of a switchover, begun anew for each attempt; its strategy decides what is not alike in all."""

    def __init__(self, request: SwitchoverRequest, strategy: SwitchoverStrategy) -> None:
        self.request = request
        self.strategy = strategy
        self.steps = Steps()
        """Those of the last attempt, while it is under way and when it has ended."""
        self.foreseen = Foreseen(None, rehearsed=request.dry_run)
        self._beside: list[Name] = []
        self._closing: dict[Name, int] = {}
        """The tables that close, by their names before."""
        self._in_doubt = False
        """The commit is sent, and it is not certain that it failed: the pipeline must apply nothing more."""

    @property
    def step(self) -> str:
        """The step that is under way, or in which the last attempt failed."""
        return self.steps.now

    @property
    def held(self) -> list[Name]:
        """The tables whose writers wait, those beside included."""
        return list(dict.fromkeys([*self.request.held, *self._beside]))

    async def before(self) -> OwnershipEpoch:
        """What needs no lock; returns the epoch that is to come. Raises NotReadyError when access would be lost."""
        request, ends = self.request, self.request.pipeline.ends
        async with (
            connection(ends.source_dsn, "cutover check") as source,
            connection(ends.target_dsn, "cutover check") as target,
        ):
            if ends.direction == "forward":
                await refuse_losses(request.plan.migration, source, target)
            foresight = foresight_of(request, self.strategy.name, together=await same_database(source, target))
            self.foreseen = Foreseen(foresight, rehearsed=request.dry_run)
            await self.foreseen.before(source, target)
            return after((await read_ownership(source)).epoch)

    async def left_behind(self) -> tuple[str, ...]:
        """What goes on using the old tables, after the commit; as far as it can be read, for it is only told."""
        with contextlib.suppress(ReplicatorError, TimeoutError):
            source = self.request.pipeline.ends.source_dsn
            async with asyncio.timeout(TELL_SECONDS), connection(source, "left behind") as looking:
                await self.foreseen.after(looking, self._closing, 0.0)
        return self.foreseen.users

    # ---- one attempt

    async def attempt(self, epoch: OwnershipEpoch) -> float:
        """One attempt; returns the seconds that the writers waited.

        :raises RetryableError: a lock did not come in time, or the like; the writers went on.
        :raises CutoverError: it took too long; they went on.
        :raises NotReadyError: something keeps ownership from moving; likewise.
        :raises ConnectionLostError: before the commit, or with its reply, and the state row cannot be read.
        """
        await self.strategy.begin()
        try:
            return await self._transact(epoch)
        finally:
            if not self._in_doubt:  # else the tables' names may be others now
                self.strategy.end(self.request)

    async def _transact(self, epoch: OwnershipEpoch) -> float:
        """The one transaction. Everything that can be done before the lock is."""
        request, ends = self.request, self.request.pipeline.ends
        clock = asyncio.get_running_loop().time
        self._in_doubt = False
        self.steps = Steps()  # what an earlier attempt took is in the journal
        holder = await connect(ends.source_dsn, "cutover", text=self.strategy.holder_gives_text)
        try:
            async with (
                connection(ends.target_dsn, "cutover target") as target,
                connection(ends.source_dsn, "cutover watch") as observer,
            ):
                attempt = Attempt(
                    request=request, holder=holder, target=target, observer=observer, epoch=epoch,
                    together=await same_database(holder, target), lock_seconds=LOCK_SECONDS, at=self.steps.at,
                )  # fmt: skip
                with translated():
                    await holder.execute("BEGIN")
                # Who has lost the lease moves nothing; and a new daemon waits for this lock before it reads the state
                # row, else it would take a commit that is still to come for one that has failed.
                # A new daemon waits for this transaction, or refuses it: it could commit after it was judged (I8).
                # guard: CUTOVER_FENCE; mutation: cutover-epoch
                await fence(holder, request.lease_epoch)
                await limit_transaction(holder, request.settings.max_write_pause + 1)
                await reach(Failpoint.CUTOVER_BEGUN)
                began = clock()
                await self._within_the_pause(attempt)
                if request.dry_run:
                    pause = clock() - began
                    self.steps.end()
                    await self.foreseen.after(holder, self._closing, pause)
                    return pause
                self.steps.at("commit")
                request.on_commit()
                await reach(Failpoint.CUTOVER_COMMITTING)
                await self._commit(holder, epoch)
                return clock() - began
        finally:
            self.steps.end()
            await self._release(holder)

    async def _within_the_pause(self, attempt: Attempt) -> None:
        """Hold the writers and do all that is to be committed. Raises CutoverError when it takes too long."""
        seconds = self.request.settings.max_write_pause
        try:
            async with asyncio.timeout(seconds):
                # Until the commit: what is written meanwhile would be missing on the new side. guard: LOCK, LOCK_HELD
                await self._lock_all(attempt)
                await self._drain()  # the last writes have come by. guard: DRAIN
                # From now on the old stream applies nothing: what comes in it is what the opposite one wrote.
                await self.request.pipeline.write_gate.pause()
                # Again: what we have written until now is to be known on the way back. guard: DRAIN_OPPOSITE_LAST
                await self.drain_opposite()
                await reach(Failpoint.CUTOVER_DRAINED)
                await self._check(attempt)
                await reach(Failpoint.CUTOVER_CHECKED)
                await self._move(attempt)
        except TimeoutError:
            raise CutoverError(
                f"The writers would have waited longer than {seconds:g} s "
                f"(REPLICATOR_MAX_WRITE_PAUSE): the step '{self.step}' took the time. They went on.",
                "Try again when there is less load, or allow a longer pause.",
            ) from None

    async def _lock_all(self, attempt: Attempt) -> None:
        request, together = self.request, attempt.together
        self.steps.begin("lock")
        self._beside = await tables_beside(
            attempt.observer, request.plan, request.move, request.tables, together=together
        )
        self.foreseen.begin()
        await self.strategy.hold(attempt, self.held)
        await self.foreseen.lock(attempt.holder, "hold the writers")
        await reach(Failpoint.CUTOVER_LOCKED)

    async def _drain(self) -> None:
        self.steps.at("drain")
        await _drain(self.request.pipeline)

    async def drain_opposite(self) -> None:
        """Let the way back come to the present, while it writes nothing yet.

        Until then it reads rows again that nobody else writes; after the move they may have gone, unremembered.
        """
        if self.request.opposite.context.shadow:  # guard: DRAIN_OPPOSITE
            self.steps.at("drain the way back")
            await _drain(self.request.opposite)

    async def _check(self, attempt: Attempt) -> None:
        """What keeps ownership from moving, on either side. Raises NotReadyError, or LockedOutError."""
        request = self.request
        through = self.strategy.looks_through(attempt)
        await check_under_lock(attempt, through, lambda: self.strategy.diverging(request))
        await self.strategy.checked(attempt)
        if not attempt.together and not request.move.from_both:
            self.steps.at("lock on the other database")
            opening = request.tables[request.move.opens]
            async with connection(request.pipeline.ends.target_dsn, "cutover watch") as observer:
                await see_that_they_open(attempt.target, opening, LOCK_SECONDS, observer)

    async def _move(self, attempt: Attempt) -> None:
        """Ownership, the team's own statements, and foreign keys, with the names as they will be."""
        request, holder, together = self.request, attempt.holder, attempt.together
        move, plan = request.move, request.plan
        self._closing = await oids_by_name(holder, request.tables[move.held])
        places = await places_by_oid(holder, plan) if together else {}
        await self.strategy.move(attempt)
        await self.foreseen.lock(holder, "move")
        if move.statements is not None:
            self.steps.at(f"statements of sql/{move.statements}")
            await switch(holder, plan.migration, move.statements, together=together)
            await self.foreseen.lock(holder, self.step)
        self.steps.at("foreign keys")
        closing = list(self._closing.values())
        await settle_beside(holder, move, closing, places, LOCK_SECONDS, attempt.observer, together=together)
        await self.foreseen.lock(holder, self.step)

    # ---- its end

    async def _release(self, holder: Connection) -> None:
        if not self._in_doubt:
            await self.strategy.before_rollback(self.request)
            self.request.pipeline.write_gate.resume()
        await holder.close()  # without a commit, this is the rollback

    async def _commit(self, holder: Connection, epoch: OwnershipEpoch) -> None:
        self._in_doubt = True
        try:
            await commit(holder)
            await reach(Failpoint.CUTOVER_COMMITTED)
        except DatabaseError:  # the server says that it was rolled back
            self._in_doubt = False
            raise
        except ConnectionLostError:  # it may have been committed: the application writes to the new side then
            found = await self._settled()  # guard: STATE_ROW
            if found.epoch != epoch or not self.request.move.happened(found):
                self._in_doubt = False
                raise CutoverError(
                    "The connection was lost before the commit; the state row says that nothing has moved.",
                    "Try again.",
                ) from None
            log.warning("the reply to the commit was lost; the state row says that ownership has moved", epoch=epoch)

    async def _settled(self) -> Ownership:
        """The state row after a lost reply. Whatever keeps it from being read, this is no attempt to be made again."""
        try:
            async with connection(self.request.pipeline.ends.source_dsn, "cutover") as source:
                return await settled_ownership(source)
        except RetryableError as error:
            raise ConnectionLostError(
                f"The reply to the commit was lost, and the state row cannot be read: {error.problem}", error.remedy
            ) from error


async def _drain(pipeline: Pipeline) -> None:
    marker = f"drained {uuid4()}"
    await pipeline.nudge(marker)
    await pipeline.wait_message(marker)  # mutation: drained
