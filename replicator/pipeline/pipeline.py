"""One direction of a migration at work: stream, apply, backfill, verify. Forward and reverse are two instances."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from replicator.apply.applier import Applier
from replicator.apply.outcome import Outcome
from replicator.apply.work import Work
from replicator.backfill import Backfill
from replicator.core.applied_position import AppliedPosition
from replicator.core.epochs import LeaseEpoch
from replicator.core.lsn import LSN, ZERO, DurableLSN
from replicator.core.markers import epoch_of
from replicator.errors import NotReadyError, RowError
from replicator.follow.follower import Follower
from replicator.follow.transaction_buffer import HEARTBEAT, Batch, TransactionBuffer
from replicator.mapping.plan import Plan
from replicator.pipeline.batches import Batches
from replicator.pipeline.setup import Ends, make_decoder, read_plan
from replicator.pipeline.source_definitions import check_relation
from replicator.pipeline.source_monitor import SourceMonitor, low_lag
from replicator.pipeline.write_gate import WriteGate
from replicator.postgres.control.ownership import settled_ownership
from replicator.postgres.control.progress import Progress, backfill_progress, consistent_point, fence
from replicator.postgres.rows.conflict_policy import ConflictPolicy, LastWriteWins
from replicator.postgres.rows.context import Context
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.wire.origins import OwnOrigin
from replicator.postgres.wire.snapshots import Visibility
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.log import get_logger
from replicator.settings import Settings
from replicator.verify import PassResult, Verifier, rounds

log = get_logger("pipeline")

HEARTBEAT_SECONDS = 10.0
LOOK_SECONDS, MOST_BETWEEN_LOOKS = 2.0, 10.0
"""Between two looks at what the tables are: what changes there is noticed in this time, or under the cutover's lock."""
IDLE_PROGRESS_SECONDS = 10.0
"""How often the position is stored while nothing of ours is in the stream."""
ALL_THAT_WAITS = 1_000_000
SLOW_BATCH = 1.0
"""Seconds. A longer one is noted, with the source that is to blame for most of it."""
SLOW_SHOWN = 60.0
LONGEST_BREAK = 10.0
"""Seconds that are left to the backfill after a batch that took as long: a wide change may take minutes, again and
again."""
BETWEEN_PASSES = 60.0
BETWEEN_LOOKS = 1.0


@dataclass(kw_only=True)
class Observers:
    """What the pipeline tells those who count."""

    on_batch: Callable[[Outcome, Batch, float], None] = lambda _outcome, _piece, _seconds: None
    on_copied: Callable[[str, int], None] = lambda _source, _rows: None
    on_resumed: Callable[[str, int], None] = lambda _source, _rows: None
    on_verified: Callable[[str, int], None] = lambda _target, _rows: None


class Pipeline:
    """Follows one direction's stream from the stored progress. ``open``, then ``run``; ``close`` in any case."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        progress: Progress,
        lease_epoch: LeaseEpoch,
        observers: Observers | None = None,
        opposite: Plan | None = None,
    ) -> None:
        ends = Ends.of(settings, plan.direction)
        self.direction = plan.direction
        self.progress = progress
        self.ends = ends
        self.observers = observers or Observers()
        self.context = Context(
            direction=plan.direction,
            plan=plan,
            source_dsn=ends.source_dsn,
            target_dsn=ends.target_dsn,
            lease_epoch=lease_epoch,
            opposite=opposite,
            shadow=progress.start_marker is not None,  # mutation: opposite-shadow
            halt_on_error=settings.on_error == "halt",
            chunk_rows=settings.chunk_rows,
            batch_rows=settings.batch_rows,
            workers=settings.workers,
            visibility=Visibility(progress.unseen),
        )
        self.applied = AppliedPosition(progress.applied)
        self.monitor = SourceMonitor(self.context, progress, ends.publication, self.applied, low_lag(settings))
        self.verifier = Verifier(self.context, self.wait_applied, self.observers.on_verified)
        self._settings = settings
        self._decoder = make_decoder(plan, progress.plugin, ends.publication)
        self._inbox = TransactionBuffer(progress.applied)
        self._follower = Follower(
            self.context, self._decoder, progress.slot, self._inbox, progress.applied, partial(check_relation, plan)
        )
        self._applier = self.new_applier()
        self._batches = Batches(self.context, self._inbox, self._applier, self.nudge)
        self.write_gate = WriteGate(self.context, self.monitor, self._applier, self.verifier)
        self._stored_at = float("-inf")
        self._began: float | None = None
        """When the batch that is under way was begun."""
        self._took = 0.0
        self._slow = ""
        self._slow_at = float("-inf")

    @property
    def position(self) -> LSN:
        """Everything up to here is applied."""
        return self.applied.position

    @property
    def batches_taken(self) -> int:
        """How many pieces of the stream have been taken up: it grows within a transaction too."""
        return self._batches.batches_taken

    @property
    def received(self) -> LSN:
        """How far the stream has been read."""
        return max(self._inbox.received, self.position)

    @property
    def slow(self) -> str:
        """Which source keeps the stream waiting: in the batch that is under way, or lately; or nothing."""
        now = asyncio.get_running_loop().time()
        under_way = "" if self._began is None else _slow(self._applier.outcome, now - self._began)
        return under_way or (self._slow if now - self._slow_at < SLOW_SHOWN else "")

    async def open(self) -> None:
        """Connect, and make sure that the slot goes on where the progress ends. Raises SlotError."""
        await self.monitor.open()
        self._decoder.prefix = self._inbox.prefix = await self.monitor.message_prefix()
        async with connection(self.ends.target_dsn, "quarantine") as target, target.transaction():
            await fence(target, self.context.lease_epoch)
            await self.context.quarantine.open(target, [each.name for each in self.context.plan.transforms])
        await self._applier.open()
        self._applier.owe_standing()

    async def close(self) -> None:
        """Give all connections back; a transaction that is open is rolled back by that."""
        await self._applier.close()
        await self.monitor.close()

    async def follow(self) -> None:
        """Follow and apply. Never returns; raises the first error of any of its tasks."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follower.run(), name=f"{self.direction} follow")
            group.create_task(self._apply_forever(), name=f"{self.direction} apply")
            group.create_task(self._beat(), name=f"{self.direction} heartbeat")
            group.create_task(self._look(), name=f"{self.direction} look")
            group.create_task(self._measure(), name=f"{self.direction} measure")

    async def backfill(self) -> LSN:
        """Copy what is not copied yet, and wait until the consistent point is applied; gives it."""
        await Backfill(self.context, self.observers.on_copied, self.observers.on_resumed).run()
        await reach(Failpoint.CHUNKS_DONE)
        async with connection(self.ends.target_dsn, "consistent point") as target:
            point = await consistent_point(target, self.direction)
        if point is None:
            raise RowError("The backfill ended with chunks left to do.", "Start the daemon again.")
        await self.wait_applied(point)
        return point

    async def backfill_done(self) -> bool:
        """Whether every chunk is written and the consistent point is applied."""
        async with connection(self.ends.target_dsn, "consistent point") as target:
            if not await backfill_progress(target, self.direction):
                return not any(transform.remembers for transform in self.context.plan.transforms)
            point = await consistent_point(target, self.direction)
            return point is not None and point <= self.position

    @contextlib.asynccontextmanager
    async def kept_from_writing(self) -> AsyncIterator[None]:
        """Write nothing meanwhile; after it, work from a plan that knows the constraints there are then."""
        async with self.context.rw_lock.write():
            yield
            plan = await read_plan(self._settings, self.context.plan.migration, self.direction)
            self.context.plan = plan.reading_as(self.context.plan)

    async def wait_started(self) -> None:
        """Wait until the stream counts: until the start marker has come by."""
        await self.applied.wait_until(lambda: not self.context.shadow)

    async def verify(self, full_pass: Callable[[float], Awaitable[PassResult]]) -> None:
        """Verify round after round. The verifier is open. Never returns."""
        await rounds(self.verifier, full_pass, between_passes=BETWEEN_PASSES, between_looks=BETWEEN_LOOKS)

    # ---- waiting

    async def wait_applied(self, lsn: LSN) -> None:
        """Wait until everything up to a position of the source is applied."""
        if self.position < lsn:
            await self.nudge()
        await self.applied.wait_position(lsn)

    async def catch_up(self) -> None:
        """Wait until everything that is in the source's log by now is applied."""
        await self.wait_applied(await self.monitor.position())

    async def wait_message(self, message: str) -> None:
        """Wait until the transaction that carries a message of ours is applied, and with it all before it."""
        await self.applied.wait_message(message)

    async def nudge(self, message: str = HEARTBEAT) -> None:
        """Send a message down the log, so that the stream moves."""
        await self.monitor.nudge(message)

    # ---- what it writes with

    def new_applier(self) -> Applier:
        """Another one, not open yet."""
        return Applier(self.context, nulls_are_ambiguous=self._decoder.nulls_are_ambiguous)

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[Work]:
        """A transaction on the target, while nothing else writes; as ``Applier.transaction``, at no position."""
        async with self.write_gate.turn(), self._applier.transaction() as work:
            yield work

    # ---- while both schemas take writes

    async def roll(self, policy: LastWriteWins, opposite: OwnOrigin) -> None:
        """Write under an origin of its own, and do not take for the application's what the opposite pipeline writes."""
        async with self.context.rw_lock.write():
            await self._applier.write_under(policy.origin.name)
            self._inbox.own_origins = opposite.signs
            self._inbox.keeps_own = any(each.remembers for each in self.context.plan.transforms)
            self.context.policy = policy

    async def stop_rolling(self) -> None:
        """From now on the source alone counts."""
        async with self.context.rw_lock.write():
            if self.context.policy.both_write:
                await self._applier.write_plainly()
            self._inbox.own_origins = frozenset()
            self.context.policy = ConflictPolicy()

    # ---- the tasks

    async def _apply_forever(self) -> None:
        while True:
            # What came during a slow batch is taken together: a wide lookup is then run once for all of it.
            batch = await self._inbox.take(ALL_THAT_WAITS if self._took > SLOW_BATCH else self.context.batch_rows)
            if batch.end is not None and not batch.transactions and not self._applier.owes(batch.end):
                await self._idle(batch.end, batch.committed_at)
            else:
                await self._apply(batch)

    async def _idle(self, position: LSN, committed_at: datetime | None) -> None:
        due = asyncio.get_running_loop().time() - self._stored_at > IDLE_PROGRESS_SECONDS
        if due or self._follower.reply_wanted:
            transaction = self._applier.transaction(self._confirm, committed=Failpoint.IDLE_COMMITTED)
            async with self.write_gate.turn(), transaction as work:
                work.reach(position)
        await self.applied.advance(position, committed_at=committed_at)

    async def _apply(self, batch: Batch) -> None:
        async with self.write_gate.turn():
            began = self._began = asyncio.get_running_loop().time()
            last, outcome = await self._batches.apply(batch, self._written, self._confirm)
        await reach(Failpoint.CONFIRMED)
        await self.applied.advance(last.end or ZERO, last.messages, last.committed_at)
        now = asyncio.get_running_loop().time()
        took, self._began = now - began, None
        self._note(outcome, took, now)
        self.observers.on_batch(outcome, last, took)
        if self.context.copying and took > SLOW_BATCH:
            # In turn with batches that take a minute, chunks would be written at one a minute.
            await asyncio.sleep(min(took, LONGEST_BREAK))

    async def _written(self, work: Work, last: Batch) -> None:
        """All of a batch is written, in a transaction that is still open."""
        if self.monitor.definitions.met(self._applier.partitions_met()):
            self._applier.forget_relations()  # if it is gone before the next look, another one may have its name
        work.reach(last.end or ZERO, started=await self._reaches_start(last))
        await reach(Failpoint.BATCH_WRITTEN)

    async def _reaches_start(self, batch: Batch) -> bool:
        """Whether the stream counts from here on. A message alone is not believed: the state row must say so too."""
        marker = self.progress.start_marker
        if marker is None or marker not in batch.messages or not self.context.shadow:
            return False
        async with connection(self.ends.source_dsn, "start marker") as source:
            moved = (await settled_ownership(source)).epoch >= epoch_of(marker)  # guard: MARKER_CHECKED
        if not moved:
            log.warning("a start marker that the state row knows nothing of is passed over", direction=self.direction)
        return moved

    def _note(self, outcome: Outcome, took: float, now: float) -> None:
        self._took = took
        slow = _slow(outcome, took)
        if slow:
            self._slow, self._slow_at = slow, now

    def _confirm(self, end: DurableLSN) -> None:
        self._stored_at = asyncio.get_running_loop().time()
        self._follower.reply_wanted = False
        self._follower.confirm(end)

    async def _beat(self) -> None:
        while True:
            await self.nudge()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _look(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            await self._look_if_changed()
            await self.monitor.definitions.remember()  # also what others than a look have noticed
            took = clock() - began  # on a large catalogue, or a busy server: the looks are no load worth a word
            await asyncio.sleep(max(LOOK_SECONDS, min(MOST_BETWEEN_LOOKS, took * 10)))

    async def _look_if_changed(self) -> None:
        reading = await self.monitor.changed() if self._may_look() else None
        if reading is not None and self._may_look():
            await self.look_at_definitions()
            if self._may_look():
                await self.monitor.look_at_ground()
                self.monitor.settle(reading)

    def _may_look(self) -> bool:
        """Else a cutover looks itself, and may rename the tables: one may begin between two steps of a look."""
        return not self.write_gate.paused and self.write_gate.holder is None

    async def look_at_definitions(self) -> None:
        """Whether what is read is still what it was. Raises DefinitionError; less is told by ``context.unseen``."""
        if await self.monitor.look_at_definitions(self.write_gate.holder):
            self._applier.forget_relations()
            self._follower.forget_left_out()

    async def look_at_ground(self, target: Connection | None = None) -> None:
        """Look at every fact once more, before ownership moves. Raises NotReadyError for the first that is wrong."""
        wrong = await self.monitor.look_at_ground(self.write_gate.holder, target)
        if wrong:
            raise NotReadyError(f"{wrong[0].problem} The writers went on.", wrong[0].remedy)

    def compare_all(self) -> None:
        """Shut the gate ``verified`` until all rows have been compared, and mended."""
        self.monitor.definitions.suspect()

    async def _measure(self) -> None:
        while True:
            await self.monitor.measure()
            await asyncio.sleep(1.0)


def _slow(outcome: Outcome, seconds: float) -> str:
    source = outcome.heaviest() if seconds > SLOW_BATCH else ""
    return f"a batch takes {seconds:.0f} s because of {source}" if source else ""
