"""One direction of a migration at work: stream, apply, backfill, verify. Forward and reverse are two instances."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from replicator.apply.applier import Applier, NewerReadError, Outcome
from replicator.apply.conflicts import foreign_rows
from replicator.backfill import Backfill
from replicator.definitions import Definitions, check_relation
from replicator.errors import NotReadyError, RetryableError, RowError
from replicator.failpoints import Failpoint, reach
from replicator.follow.follower import Follower
from replicator.follow.inbox import HEARTBEAT, Inbox, Piece
from replicator.lag import LagMeter
from replicator.log import get_logger
from replicator.lsn import LSN, ZERO, format_lsn
from replicator.plan import Plan
from replicator.postgres.connect import Connection, connect, connection
from replicator.postgres.context import Context, Rolling
from replicator.postgres.origins import OwnOrigin
from replicator.postgres.progress import Progress, backfill_progress, consistent_point, enter
from replicator.postgres.redo import Redo
from replicator.postgres.replication import identify_system
from replicator.postgres.slots import check_slot, clock_and_position, current_position, emit_message, read_slot
from replicator.postgres.snapshots import Visibility, look
from replicator.settings import Settings
from replicator.setup import Ends, make_decoder, read_plan
from replicator.verify import Divergence, PassResult, Verifier, rounds

log = get_logger("pipeline")

HEARTBEAT_SECONDS = 10.0
IDLE_PROGRESS_SECONDS = 10.0
"""How often the position is stored while nothing of ours is in the stream."""
EXTENSIONS = 5
"""How often a batch is extended; what clashes still does so for a reason."""
LONG_AGO = datetime.min.replace(tzinfo=UTC)
CLOCK_MARGIN = timedelta(seconds=2)
"""A transaction takes its commit time a moment before it stands in the log."""
BETWEEN_PASSES = 60.0
BETWEEN_LOOKS = 1.0


@dataclass(kw_only=True)
class Observers:
    """What the pipeline tells those who count."""

    on_batch: Callable[[Outcome, Piece, float], None] = lambda _outcome, _piece, _seconds: None
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
        epoch: int,
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
            epoch=epoch,
            opposite=opposite,
            shadow=progress.start_marker is not None,
            halt_on_error=settings.on_error == "halt",
            chunk_rows=settings.chunk_rows,
            batch_rows=settings.batch_rows,
            workers=settings.workers,
            visibility=Visibility(progress.unseen),
        )
        self.position = progress.applied
        """Everything up to here is applied."""
        self.lag = LagMeter()
        self.retained_bytes = 0
        self.applied_through = LONG_AGO
        """What was committed on the source up to then, by its clock, is applied: known once a second."""
        self.verifier = Verifier(self.context, self.wait_applied, self.observers.on_verified)
        self._settings = settings
        self._decoder = make_decoder(plan, progress.plugin, ends.publication)
        self._inbox = Inbox(progress.applied)
        self._follower = Follower(
            self.context, self._decoder, progress.slot, self._inbox, progress.applied, partial(check_relation, plan)
        )
        self._applier = Applier(self.context, nulls_are_ambiguous=self._decoder.nulls_are_ambiguous)
        self.definitions = Definitions(self.context, progress.plugin, ends.publication)
        self._advanced = asyncio.Condition()
        self._messages: set[str] = set()
        self._clocks: deque[tuple[datetime, LSN]] = deque(maxlen=3_600)
        self._stored_at = float("-inf")
        self._going = asyncio.Event()
        self._going.set()
        self._source_lock = asyncio.Lock()
        self._source: Connection | None = None

    @property
    def received(self) -> LSN:
        """How far the stream has been read."""
        return max(self._inbox.received, self.position)

    async def open(self) -> None:
        """Connect, and make sure that the slot goes on where the progress ends. Raises SlotError."""
        self._source = await connect(self.ends.source_dsn, f"{self.direction} control")
        identity = await identify_system(self.ends.source_dsn)
        check_slot(
            await read_slot(self._source, self.progress.slot), self.progress, identity.system_id, identity.timeline
        )
        await self.definitions.open(self._source)
        async with connection(self.ends.target_dsn, "quarantine") as target, target.transaction():
            await enter(target, self.context.epoch)
            await self.context.quarantine.open(target, [each.name for each in self.context.plan.transforms])
        await self._applier.open()

    async def close(self) -> None:
        """Give all connections back; a transaction that is open is rolled back by that."""
        await self._applier.close()
        if self._source is not None:
            await self._source.close()

    async def follow(self) -> None:
        """Follow and apply. Never returns; raises the first error of any of its tasks."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follower.run(), name=f"{self.direction} follow")
            group.create_task(self._apply_forever(), name=f"{self.direction} apply")
            group.create_task(self._beat(), name=f"{self.direction} heartbeat")
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
        async with self.context.exclusion.alone():
            yield
            plan = await read_plan(self._settings, self.context.plan.migration, self.direction)
            self.context.plan = plan.reading_as(self.context.plan)

    async def wait_started(self) -> None:
        """Wait until the stream counts: until the start marker has come by."""
        async with self._advanced:
            await self._advanced.wait_for(lambda: not self.context.shadow)

    async def verify(self, full_pass: Callable[[float], Awaitable[PassResult]]) -> None:
        """Verify round after round. The verifier is open. Never returns."""
        await rounds(self.verifier, full_pass, between_passes=BETWEEN_PASSES, between_looks=BETWEEN_LOOKS)

    # ---- waiting

    async def wait_applied(self, lsn: LSN) -> None:
        """Wait until everything up to a position of the source is applied."""
        if self.position < lsn:
            await self.nudge()
        async with self._advanced:
            await self._advanced.wait_for(lambda: self.position >= lsn)

    async def catch_up(self) -> None:
        """Wait until everything that is in the source's log by now is applied."""
        async with self._source_lock:
            if self._source is None:
                return
            position = await current_position(self._source)
        await self.wait_applied(position)

    async def wait_message(self, message: str) -> None:
        """Wait until the transaction that carries a message of ours is applied, and with it all before it."""
        async with self._advanced:
            await self._advanced.wait_for(lambda: message in self._messages)
            self._messages.discard(message)

    async def nudge(self, message: str = HEARTBEAT) -> None:
        """Send a message down the log, so that the stream moves."""
        async with self._source_lock:
            if self._source is not None:
                await emit_message(self._source, message)

    # ---- the end of its time

    async def freeze(self) -> None:
        """Apply nothing more until ``thaw``.

        In a cutover, once drained: after its commit, what comes down this stream are the opposite pipeline's writes.
        To apply these would undo what the application has done since.
        """
        self._going.clear()
        async with self.context.exclusion.alone():
            pass  # what was under way has ended

    def thaw(self) -> None:
        """Go on: the cutover was given up."""
        self._going.set()

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Alone on the target, and not frozen; while both schemas take writes, alone on both sides."""
        while True:
            await self._going.wait()
            async with self.context.exclusion.alone(), contextlib.AsyncExitStack() as stack:
                if self.context.rolling is not None:
                    await stack.enter_async_context(self.context.rolling.turn)
                if self._going.is_set():
                    yield
                    return

    # ---- while both schemas take writes

    async def roll(self, rolling: Rolling, opposite: OwnOrigin) -> None:
        """Write under an origin of its own, and do not take for the application's what the opposite pipeline writes."""
        async with self.context.exclusion.alone():
            await self._applier.write_under(rolling.origin.name)
            self._inbox.own_origins = opposite.signs
            self._inbox.keeps_own = any(each.remembers for each in self.context.plan.transforms)
            self.context.rolling = rolling

    async def stop_rolling(self) -> None:
        """From now on the source alone counts."""
        async with self.context.exclusion.alone():
            if self.context.rolling is not None:
                await self._applier.write_plainly()
            self._inbox.own_origins = frozenset()
            self.context.rolling = None

    async def without_rows_of_the_application(self, found: list[Divergence]) -> list[Divergence]:
        """Leave out those on the target that the application, not this pipeline, has written or deleted last."""
        if self.context.rolling is None or not found:
            return found
        async with connection(self.ends.target_dsn, "final check") as target:
            theirs = await foreign_rows(target, self.context, {(each.target, each.key) for each in found})
        return [each for each in found if (each.target, each.key) not in theirs]

    async def rederive(self, entries: list[Redo]) -> None:
        """Derive again what is noted, in one transaction. It may be done twice."""
        for tries_left in reversed(range(EXTENSIONS)):
            try:
                await self._rederive(entries, self.position if tries_left else None)
            except NewerReadError as clash:
                await self.wait_applied(clash.lsn)
            except RetryableError:
                if not tries_left:
                    raise
            else:
                return

    async def _rederive(self, entries: list[Redo], position: LSN | None) -> None:
        async with self._turn():
            await self._applier.begin()
            try:
                await self._applier.rederive(entries, position)
                await self._applier.commit_without_progress()
            except (NewerReadError, RetryableError):
                await self._applier.rollback()
                raise

    # ---- repair

    @contextlib.asynccontextmanager
    async def repairing(self) -> AsyncIterator[Applier]:
        """An applier with its transaction open, while nothing else writes; what it wrote is committed at the end.

        :raises NotReadyError: while both schemas take writes: what is repaired there may be what is on its way.
        """
        if self.context.rolling is not None:
            raise NotReadyError(
                "Nothing is repaired while both schemas take writes.",
                "First complete the cutover (`replicator cutover --complete`), or roll it back.",
            )
        applier = Applier(self.context, nulls_are_ambiguous=self._decoder.nulls_are_ambiguous)
        try:
            await applier.open()
            async with self.context.exclusion.alone():
                with self.context.quarantine.as_committed():
                    await applier.begin()
                    yield applier
                    await reach(Failpoint.REDO_WRITTEN)
                    await applier.commit_without_progress()
                await reach(Failpoint.REDO_COMMITTED)
        finally:
            await applier.close()

    # ---- the tasks

    async def _apply_forever(self) -> None:
        while True:
            piece = await self._inbox.take(self.context.batch_rows)
            if piece.end is not None and not piece.transactions:
                await self._idle(piece.end)
            else:
                await self._apply(piece)

    async def _idle(self, position: LSN) -> None:
        due = asyncio.get_running_loop().time() - self._stored_at > IDLE_PROGRESS_SECONDS
        if due or self._follower.reply_wanted:
            async with self._turn():
                await self._applier.begin()
                await self._applier.commit(position)
                await reach(Failpoint.IDLE_COMMITTED)
            self._confirm(position)
        await self._advance(position, [])

    async def _apply(self, piece: Piece) -> None:
        began = asyncio.get_running_loop().time()
        async with self._turn():
            last = await self._apply_or_retry(piece)
            end = last.end or ZERO
            reached_start = self.progress.start_marker in last.messages and self.context.shadow
            await reach(Failpoint.BATCH_WRITTEN)
            outcome = await self._applier.commit(end, started=reached_start)
            await reach(Failpoint.BATCH_COMMITTED)
            if reached_start:
                self.context.shadow = False
                log.info("start marker reached", direction=self.direction, position=format_lsn(end))
        self._confirm(end)
        await reach(Failpoint.CONFIRMED)
        await self._advance(end, last.messages)
        self.observers.on_batch(outcome, last, asyncio.get_running_loop().time() - began)

    async def _apply_or_retry(self, piece: Piece) -> Piece:
        """While both schemas take writes, the application's transactions may be in the way: give way, try again."""
        whole = piece.end is not None
        while True:
            await self._applier.begin()
            try:
                return await self._apply_pieces(piece)
            except RetryableError as error:
                if self.context.rolling is None or not whole:
                    raise
                log.info("giving way to the application", direction=self.direction, error=error.problem)
                await self._applier.rollback()

    async def _apply_pieces(self, piece: Piece) -> Piece:
        """Apply a piece, and the rest of its last transaction; gives the piece that ends it."""
        extensions = 0
        while True:
            # Only at a commit, and not for ever, can more of the stream help against a clash.
            position = piece.end if extensions < EXTENSIONS else None
            try:
                await self._applier.apply(piece.changes, position=position, whole=piece.end is not None)
            except NewerReadError as clash:
                extensions += 1
                await self._extend(piece, clash)
                continue
            if piece.end is not None:
                return piece
            piece = await self._inbox.take(self.context.batch_rows)

    async def _extend(self, piece: Piece, clash: NewerReadError) -> None:
        """Take what the stream has up to the read that clashed into the same batch."""
        log.info("batch extended to a newer read", direction=self.direction, position=format_lsn(clash.lsn))
        await self.nudge()
        while piece.end is None or piece.end < clash.lsn:
            piece.extend(await self._inbox.take(self.context.batch_rows))

    def _confirm(self, end: LSN) -> None:
        self._stored_at = asyncio.get_running_loop().time()
        self._follower.reply_wanted = False
        self._follower.confirm(end)

    async def _advance(self, position: LSN, messages: list[str]) -> None:
        async with self._advanced:
            self.position = max(self.position, position)
            self._messages.update(messages)
            self._advanced.notify_all()

    async def _beat(self) -> None:
        while True:
            await self.nudge()
            await self.look_at_definitions()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def look_at_definitions(self) -> None:
        """Whether what is read is still what it was. Raises DefinitionError; less is told by ``context.unseen``."""
        async with self._source_lock:
            if self._source is not None and await self.definitions.look(self._source):
                self._applier.forget_relations()

    async def _measure(self) -> None:
        while True:
            await self.measure()
            await asyncio.sleep(1.0)

    async def measure(self) -> None:
        """Look at the source's position and at the slot."""
        async with self._source_lock:
            if self._source is None:
                return
            await self._look_at_clock(self._source)
            position = await current_position(self._source)
            slot = await read_slot(self._source, self.progress.slot)
            await look(self._source, self.context.visibility)
        self.lag.observe(position, self.position, self._settings.ready_lag_bytes)
        self.retained_bytes = slot.retained_bytes if slot else 0
        if slot is not None and slot.wal_status == "lost":
            check_slot(slot, self.progress, self.progress.system_id, self.progress.timeline)

    async def _look_at_clock(self, source: Connection) -> None:
        now, position = await clock_and_position(source)
        self._clocks.append((now, position))
        while self._clocks and self._clocks[0][1] <= self.position:
            self.applied_through = self._clocks.popleft()[0] - CLOCK_MARGIN
