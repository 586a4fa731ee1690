"""The cutover: one transaction on the source that holds the writers, drains, checks, and moves ownership.

The rollback is the same with the sides swapped.

Before its commit, giving up costs a rollback and no write has failed; after it, ownership has moved. If the reply to
the commit is lost, the state row is read: never guessed, never retried blindly.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from uuid import uuid4

from replicator.core.tables import Name
from replicator.errors import (
    ConnectionLostError,
    CutoverError,
    DatabaseError,
    NotReadyError,
    ReplicatorError,
    RetryableError,
)
from replicator.pipeline.pipeline import Pipeline
from replicator.pipeline.setup import Ends
from replicator.postgres.control.control import Owner, journal
from replicator.postgres.control.ownership import (
    Ownership,
    all_names,
    limit_transaction,
    read_ownership,
    same_database,
    settled_ownership,
    write_ownership,
)
from replicator.postgres.control.progress import enter
from replicator.postgres.ddl.ddl import check_queries, failing_checks
from replicator.postgres.ddl.search_path import restore_search_path, switch_search_path
from replicator.postgres.ddl.switching import switch
from replicator.postgres.guarding.guards import guard, open_to_writers
from replicator.postgres.locking.locks import WRITERS, gives_way, lock_more, lock_tables, send_vacuum_away
from replicator.postgres.locking.trees import oids_by_name
from replicator.postgres.rows.sequences import set_sequences
from replicator.postgres.session.connect import Connection, connect, connection, translated
from replicator.preflight.consequences import Foresight
from replicator.preflight.hanging import Strategy
from replicator.preflight.security import refuse_losses
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.log import get_logger
from replicator.settings import Settings
from replicator.switchover.closing import see_that_all_is_closed
from replicator.switchover.foreseen import Foreseen
from replicator.switchover.handover import see_that_they_open
from replicator.switchover.held_up import HeldUp
from replicator.switchover.neighbours import places_by_oid, settle_beside, tables_beside
from replicator.switchover.phases import CutoverResult, Transition
from replicator.verify import Divergence, advice, sentence

log = get_logger("cutover")

ATTEMPTS = 30
LOCK_SECONDS = 0.5
"""How long an attempt may queue for the lock: every writer queues behind it."""
BACKOFF_SECONDS = 0.5
BACKOFF_MOST = 10.0
TELL_SECONDS = 5.0
"""For what is told when all is done."""

Report = Callable[[str], Awaitable[None]]


class Cutover:
    """Moves ownership from the source of a pipeline to its target.

    :param opposite: the pipeline of the other direction: the way back.
    :param tables: all tables of either schema that take part.
    :param epoch: the lease's, on the source: a daemon that has lost it moves nothing.
    :param dry_run: go through every step, then roll back.
    :param search_path_of: a role whose ``search_path`` moves too.
    """

    holder_gives_text = False
    strategy: Strategy = "schema"
    when_unseen = "All rows of it are compared again; then try again."
    """What to do when rows may have changed past the log."""

    def __init__(
        self,
        settings: Settings,
        move: Transition,
        pipeline: Pipeline,
        opposite: Pipeline,
        tables: Mapping[Owner, list[Name]],
        report: Report,
        *,
        epoch: int,
        on_commit: Callable[[], None] = lambda: None,
        dry_run: bool = False,
        search_path_of: str | None = None,
    ) -> None:
        self.settings = settings
        self.move = move
        self.pipeline = pipeline
        self.opposite = opposite
        self.tables = tables
        self.plan = pipeline.context.plan
        self.ends: Ends = pipeline.ends
        self.report = report
        self.epoch = epoch
        self.dry_run = dry_run
        self.search_path_of = search_path_of
        self._on_commit = on_commit
        self._step = ""
        self._beside: list[Name] = []
        self._closing: dict[Name, int] = {}
        """The tables that close, by their names before."""
        self._foreseen = Foreseen(None, rehearsed=dry_run)
        self.held_up = HeldUp()
        self._new_schema = self.plan.migration.new
        """Where the new tables will be found."""
        self._in_doubt = False
        """The commit is sent, and it is not certain that it failed: the pipeline must apply nothing more."""

    @property
    def held(self) -> list[Name]:
        """The tables whose writers wait: those that close, those beside, and those that are followed until now."""
        if self.pipeline.direction == "reverse":
            return [*self.tables[self.move.held], *self._beside]
        stay = all_names(table for name, table in self.plan.watched.items() if name in self.plan.migration.left)
        return list(dict.fromkeys([*self.tables[self.move.held], *stay, *self._beside]))

    async def run(self) -> CutoverResult:
        """Try until the lock comes in time, up to a limit.

        :raises CutoverError: with the step that failed or took the time; the writers went on.
        :raises NotReadyError: the final check found something that keeps ownership from moving.
        """
        epoch = await self._before()
        failure = ""
        for attempt in range(1, ATTEMPTS + 1):
            await self.pipeline.look_at_ground()
            locked = f"{len(self.held)} tables{failure and '; ' + failure}"
            await self.report(f"attempt {attempt}: waiting for the lock on {locked}")
            await self.pipeline.verifier.settle_down()  # what is compared now need not be while writers wait
            await self._drain_opposite()
            try:
                pause = await self._attempt(epoch)
            except RetryableError as error:
                failure = error.problem
                self.held_up.note(error)
                log.info("an attempt was given up; the writers went on", attempt=attempt, why=failure)
                await self._journal("attempt", attempt=attempt, failed=self._step, why=failure)
                await self.report(f"given up for a moment: {failure}")
                if gives_way(error):
                    await self._send_vacuum_away()
            except ReplicatorError as error:
                await self._journal("attempt", attempt=attempt, failed=self._step, error=error.kind)
                raise
            else:
                done = "dry run" if self.dry_run else self.move.name
                await self._journal(done, epoch=epoch, attempt=attempt, pause=pause)
                return CutoverResult(
                    epoch=epoch,
                    attempts=attempt,
                    write_pause_seconds=pause,
                    dry_run=self.dry_run,
                    dependents=self._foreseen.users,
                    consequences=self._foreseen.consequences,
                )
            await asyncio.sleep(min(BACKOFF_MOST, BACKOFF_SECONDS * 2 ** min(attempt - 1, 5)))
        raise CutoverError(
            f"The tables could not be locked in {ATTEMPTS} attempts. {failure}",
            "Wait until it has ended, or end it, then try again.",
        )

    async def _before(self) -> int:
        """What needs no lock; gives the epoch that is to come. Raises NotReadyError when access would be lost."""
        async with (
            connection(self.ends.source_dsn, "cutover check") as source,
            connection(self.ends.target_dsn, "cutover check") as target,
        ):
            if self.pipeline.direction == "forward":
                await refuse_losses(self.plan.migration, source, target)
            together = await same_database(source, target)
            self._foreseen = Foreseen(self._foresight(together=together), rehearsed=self.dry_run)
            await self._foreseen.before(source, target)
            return (await read_ownership(source)).epoch + 1

    async def left_behind(self) -> tuple[str, ...]:
        """What goes on using the old tables, after the commit; as far as it can be read, for it is only told."""
        with contextlib.suppress(ReplicatorError, TimeoutError):
            async with asyncio.timeout(TELL_SECONDS), connection(self.ends.source_dsn, "left behind") as looking:
                await self._foreseen.after(looking, self._closing, 0.0)
        return self._foreseen.users

    def _foresight(self, *, together: bool) -> Foresight | None:
        """For what is told of it; None where no old table is closed."""
        if self.move.owner != "new" or self.move.opens_both:
            return None
        return Foresight(
            migration=self.plan.migration,
            forward=self.plan,
            reverse=self.opposite.context.plan,
            together=together,
            strategy=self.strategy,
            most_seconds=self.settings.max_write_pause,
        )

    async def _attempt(self, epoch: int) -> float:
        """One attempt; gives the seconds that the writers waited. Everything that can be done before the lock is."""
        clock = asyncio.get_running_loop().time
        self._in_doubt = False
        holder = await connect(self.ends.source_dsn, "cutover", text=self.holder_gives_text)
        try:
            async with (
                connection(self.ends.target_dsn, "cutover target") as target,
                connection(self.ends.source_dsn, "cutover watch") as self._observing,
            ):
                together = await same_database(holder, target)
                with translated():
                    await holder.execute("BEGIN")
                await enter(holder, self.epoch)  # or two would judge it. guard: CUTOVER_FENCE; mutation: cutover-epoch
                await limit_transaction(holder, self.settings.max_write_pause + 1)
                await reach(Failpoint.CUTOVER_BEGUN)
                began = clock()
                try:
                    async with asyncio.timeout(self.settings.max_write_pause):
                        await self._lock_all(holder, together=together)  # until the commit. guard: LOCK, LOCK_HELD
                        await self._drain()  # the last writes have come by. guard: DRAIN
                        await self.pipeline.write_gate.pause()
                        await self._drain_opposite()  # what we wrote until now, too. guard: DRAIN_OPPOSITE_LAST
                        await reach(Failpoint.CUTOVER_DRAINED)
                        await self._check(target)
                        if not together and not self.move.from_both:
                            self._step = "lock on the other database"
                            opening = self.tables[self.move.opens]
                            async with connection(self.ends.target_dsn, "cutover watch") as observer:
                                await see_that_they_open(target, opening, LOCK_SECONDS, observer)
                        await reach(Failpoint.CUTOVER_CHECKED)
                        await self._move_all(holder, epoch, together=together)
                except TimeoutError:
                    raise CutoverError(
                        f"The writers would have waited longer than {self.settings.max_write_pause:g} s "
                        f"(REPLICATOR_MAX_WRITE_PAUSE): the step '{self._step}' took the time. They went on.",
                        "Try again when there is less load, or allow a longer pause.",
                    ) from None
                if self.dry_run:
                    pause = clock() - began
                    await self._foreseen.after(holder, self._closing, pause)
                    return pause
                self._step = "commit"
                self._on_commit()
                await reach(Failpoint.CUTOVER_COMMITTING)
                await self._commit(holder, epoch)
                return clock() - began
        finally:
            await self._release(holder)

    async def _move_all(self, holder: Connection, epoch: int, *, together: bool) -> None:
        """Ownership, the team's own statements, and foreign keys, with the names as they will be."""
        self._closing = await oids_by_name(holder, self.tables[self.move.held])
        places = await places_by_oid(holder, self.plan) if together else {}
        await self._move(holder, epoch, together=together)
        await self._foreseen.lock(holder, "move")
        if self.move.statements is not None:
            self._step = f"statements of sql/{self.move.statements}"
            await switch(holder, self.plan.migration, self.move.statements, together=together)
            await self._foreseen.lock(holder, self._step)
        self._step = "foreign keys"
        closing = list(self._closing.values())
        await settle_beside(holder, self.move, closing, places, LOCK_SECONDS, self._observing, together=together)
        await self._foreseen.lock(holder, self._step)

    async def _lock_all(self, holder: Connection, *, together: bool) -> None:
        self._step = "lock"
        self._beside = await tables_beside(self._observing, self.plan, self.move, self.tables, together=together)
        self._foreseen.begin()
        await self._hold(holder, min(LOCK_SECONDS, self.settings.max_write_pause))
        await self._foreseen.lock(holder, "hold the writers")
        await reach(Failpoint.CUTOVER_LOCKED)

    async def _hold(self, holder: Connection, seconds: float) -> None:
        """Keep the writers waiting. Raises LockedOutError when the lock does not come in time."""
        await lock_tables(holder, self.held, WRITERS, seconds, self._observing)

    async def _open(self, holder: Connection, tables: list[Name]) -> None:
        """Switch the guards off. Raises LockedOutError: who is in the way of that keeps the writers waiting."""
        self._step = "lock on the tables that open"
        await lock_more(holder, tables, WRITERS, LOCK_SECONDS, self._observing)
        await self._see_that_all_is_closed(holder)  # until now somebody could write. guard: CLOSED_UNDER_LOCK
        await open_to_writers(holder, tables)

    async def _send_vacuum_away(self) -> None:
        for dsn, tables in ((self.ends.source_dsn, self.move.held), (self.ends.target_dsn, self.move.opens)):
            async with connection(dsn, "cutover vacuum") as asking:
                await send_vacuum_away(asking, self.tables[tables])

    async def _release(self, holder: Connection) -> None:
        if not self._in_doubt:
            self.pipeline.write_gate.resume()
        await holder.close()  # without a commit, this is the rollback

    async def _drain(self) -> None:
        self._step = "drain"
        await _drain(self.pipeline)

    async def _drain_opposite(self) -> None:
        """Until then it reads rows again that nobody else writes; after the move they may have gone, unremembered."""
        if self.opposite.context.shadow:  # guard: DRAIN_OPPOSITE
            self._step = "drain the way back"
            await _drain(self.opposite)

    async def _check(self, target: Connection) -> None:
        self._step = "definitions"
        await self.pipeline.look_at_definitions()
        self._step = "guards of the tables that open"
        await self._see_that_all_is_closed(target)
        self._step = "ground"
        await self.pipeline.look_at_ground(target)
        self._step = "final check"
        divergences = await self._diverging()  # the writers are held: nothing follows. guard: FINAL_HELD, FINDINGS
        if divergences:
            raise NotReadyError(
                f"The final check found {len(divergences)} rows that diverge; the writers went on.",
                sentence(advice(divergences)),
            )
        if self.pipeline.context.quarantined:
            raise NotReadyError("A row went into quarantine; the writers went on.", "See `replicator quarantine list`.")
        self._step = "sequences"
        await set_sequences(target, self.plan.targets)
        self._step = "checks"
        if self.pipeline.direction == "forward":
            failing = await failing_checks(target, check_queries(self.plan.migration))
            if failing:
                raise NotReadyError(f"sql/checks return rows: {', '.join(failing)}; the writers went on.")

    async def _see_that_all_is_closed(self, connection: Connection) -> None:
        """The looks are seconds apart: a trigger may have acted since, or somebody has written.

        What waits to be compared is asked for last: what was closed again in this moment had been noted before.
        """
        try:
            await see_that_all_is_closed(connection)  # guard: CLOSED_FIRST
        except NotReadyError:
            self.pipeline.compare_all()
            raise
        if self.pipeline.context.unseen:  # what somebody wrote there would become final. guard: SUSPECT_SHUTS
            raise NotReadyError(
                "Rows may have changed past the log: a table was rewritten or truncated, a partition came or went, or "
                "a guard was switched off. The writers went on.",
                self.when_unseen,
            )

    async def _diverging(self) -> list[Divergence]:
        return await self.pipeline.verifier.final_check()

    async def _move(self, holder: Connection, epoch: int, *, together: bool) -> None:
        self._step = "guards"
        # With the state row: else both sides take writes for a moment, or neither. guard: GUARDS_WITH_ROW
        await guard(holder, self.plan.migration, self.move.held, self.tables[self.move.held], self._new_schema)
        if together:
            await self._open(holder, self.tables[self.move.owner])
        await reach(Failpoint.CUTOVER_GUARDED)
        self._step = "search_path"
        await self._move_search_path(holder)
        self._step = "state row"
        marker = self.opposite.progress.start_marker if together else None
        await write_ownership(holder, self.move.owner, epoch, marker)

    async def _move_search_path(self, holder: Connection) -> None:
        migration = self.plan.migration
        if self.move.owner == "old":
            await restore_search_path(holder)
        elif self.search_path_of is not None:
            await switch_search_path(holder, self.search_path_of, migration.old, migration.new)

    async def _commit(self, holder: Connection, epoch: int) -> None:
        self._in_doubt = True
        try:
            with translated():
                await holder.execute("COMMIT")
            await reach(Failpoint.CUTOVER_COMMITTED)
        except DatabaseError:  # the server says that it was rolled back
            self._in_doubt = False
            raise
        except ConnectionLostError:  # it may have been committed: the application writes to the new side then
            found = await self._settled()  # guard: STATE_ROW
            if found.epoch != epoch or not self.move.happened(found):
                self._in_doubt = False
                raise CutoverError(
                    "The connection was lost before the commit; the state row says that nothing has moved.",
                    "Try again.",
                ) from None
            log.warning("the reply to the commit was lost; the state row says that ownership has moved", epoch=epoch)

    async def _settled(self) -> Ownership:
        """The state row after a lost reply. Whatever keeps it from being read, this is no attempt to be made again."""
        try:
            async with connection(self.ends.source_dsn, "cutover") as source:
                return await settled_ownership(source)
        except RetryableError as error:
            raise ConnectionLostError(
                f"The reply to the commit was lost, and the state row cannot be read: {error.problem}", error.remedy
            ) from error

    async def _journal(self, event: str, **details: object) -> None:
        async with connection(self.settings.target, "journal") as target:
            await journal(target, event, {"of": self.move.name, **details})


async def _drain(pipeline: Pipeline) -> None:
    marker = f"drained {uuid4()}"
    await pipeline.nudge(marker)
    await pipeline.wait_message(marker)  # mutation: drained
