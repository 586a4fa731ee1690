"""Writes one batch, with its progress, in one transaction on the target; what is refused goes into quarantine."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing

from replicator.apply.batch import Batch, ask, compact
from replicator.apply.batch import Relations as Known
from replicator.apply.conflicts import Conflicts, Mode, written_by_the_application
from replicator.apply.dates import Dates
from replicator.apply.deriving import Deriver
from replicator.apply.effects import Effects
from replicator.apply.emptied import spelt_out
from replicator.apply.heirs import Heirs
from replicator.apply.later import Again, Later
from replicator.apply.moves import Moves
from replicator.apply.order import CLASHES, Written
from replicator.apply.outcome import NewerReadError, Outcome, OutOfOrderError, PendingError
from replicator.apply.parts import Parts
from replicator.apply.postponed import Postponed
from replicator.apply.reading import Reading, keep_out
from replicator.apply.rederiving import claimed, rederiving
from replicator.apply.relations import Relations
from replicator.apply.removing import remove
from replicator.apply.search import Refusal
from replicator.apply.undoing import Memory, Savepoint
from replicator.apply.writing import write_effects
from replicator.changes import Change, RelationName
from replicator.errors import DatabaseError, RetryableError
from replicator.failpoints import Failpoint, reach
from replicator.log import get_logger
from replicator.lsn import LSN, ZERO
from replicator.postgres.connect import Connection, connect, translated
from replicator.postgres.context import Context
from replicator.postgres.keys import Asked
from replicator.postgres.memory import forget, remember
from replicator.postgres.origins import write_plainly, write_under
from replicator.postgres.progress import enter, write_applied
from replicator.postgres.quarantine import Failure, halted
from replicator.postgres.redo import Redo, note_redo
from replicator.postgres.slots import current_position
from replicator.postgres.snapshots import look
from replicator.postgres.target import TargetWriter
from replicator.postgres.versions import lock_rows
from replicator.tables import Key, Name, Table

log = get_logger("apply")

LOOKS = 20
"""How often a batch is written again because the application wrote meanwhile."""

REDO_ROWS = 5_000
"""How many rows are read again at a time."""


class Applier:
    """One pipeline's writer. Between ``begin`` and ``commit`` it holds one transaction on the target open."""

    def __init__(self, context: Context, *, nulls_are_ambiguous: bool) -> None:
        self.context = context
        self.nulls_are_ambiguous = nulls_are_ambiguous
        self.halt_on_error = context.halt_on_error
        self.outcome = Outcome()
        self._postponed = Postponed(context.plan)
        self._parts: Parts | None = None
        self._hopeless: dict[tuple[str, Key], Failure] = {}
        """Refused whatever the order: left out until the transaction's end, when what was refused is tried again."""
        self._later = Later()
        self._again: list[Again] = []
        self._ahead = ZERO
        """Rows of the target may be as new as this: they were read again, by this daemon or the one before it."""
        self._read_to = ZERO
        """The newest read of this transaction."""
        self._dates = Dates()
        self._moves = Moves()
        self._mode: Mode = "following"
        self._relations = Relations(context)
        self._known: Known = {}
        """What the names in the changes that are being written stand for."""
        self._asked = Asked()

    def forget_relations(self) -> None:
        """Ask again what each name in the log stands for: partitions have come or gone."""
        self._relations.forget()

    def partitions_met(self) -> dict[RelationName, Table]:
        """The partitions that changes have come from for the first time since the last call."""
        return self._relations.met()

    async def open(self) -> None:
        """Connect to both sides and prepare the staging tables."""
        direction = self.context.direction
        self._own_reader = await connect(self.context.source_dsn, f"{direction} reread", text=True)
        self._reader = self._own_reader
        self._connection = await connect(self.context.target_dsn, f"{direction} apply")
        self._ahead = await current_position(self._reader)
        self._reading = Reading(self.context, self._reader, self._connection)
        self._deriver = Deriver(self.context, self._connection)
        self._heirs = Heirs(self.context, self._connection)
        self._writer = TargetWriter(self._connection, self.context.plan.targets)
        await self._writer.prepare()
        for join in ("hashjoin", "mergejoin"):  # staged rows are few and have no statistics: go by the target's key
            await self._execute(f"SET enable_{join} = off")

    async def close(self) -> None:
        """Give the connections back; an open transaction is rolled back by that."""
        if hasattr(self, "_connection"):
            self.context.quarantine.undo(self._connection)
            self.context.quarantine.end(self._connection)
        for connection in (getattr(self, "_own_reader", None), getattr(self, "_connection", None)):
            if connection is not None:
                await connection.close()

    def read_through(self, connection: Connection | None) -> None:
        """Read the source on another connection, which gives text; with None, on its own again."""
        self._reader = connection or self._own_reader
        self._reading.read_through(self._reader)

    async def begin(self) -> None:
        """Open the transaction. Raises LeaseError when another daemon has taken over."""
        self.outcome = Outcome()
        self._postponed = Postponed(self.context.plan)
        self._parts = None
        self._hopeless = {}
        self._later.begin()
        self._heirs.begin()
        self._moves = Moves()
        self._again = []
        self._read_to = ZERO
        self._dates = Dates()
        self._mode = "following"
        with translated():
            await self._connection.execute("BEGIN")
            await enter(self._connection, self.context.epoch)
            await self._connection.execute("SET CONSTRAINTS ALL DEFERRED")
        self.context.quarantine.begin(self._connection)
        self._writer.transaction_begins()

    async def rollback(self) -> None:
        """Undo all since ``begin``."""
        self.context.quarantine.undo(self._connection)
        if not self._connection.closed:
            with translated():
                await self._connection.execute("ROLLBACK")

    async def commit(self, end: LSN, *, started: bool = False) -> Outcome:
        """Store the progress with the rows and commit. Only after this may ``end`` be confirmed to the slot."""
        visibility = self.context.visibility
        if visibility:
            await look(self._reader, visibility)  # so that few are left to be stored
        await write_applied(
            self._connection, self.context.direction, end, unseen=visibility.unseen, started=started
        )  # fmt: skip
        await reach(Failpoint.BATCH_COMMITTING)
        await self._commit()
        self._later.commit(self.outcome.failures, end, self._read_to, self._dates)
        return self.outcome

    def owes(self, position: LSN) -> bool:
        """Whether refused rows are to be tried again now, though the stream has brought nothing."""
        return not self.context.shadow and self._later.is_due(position)

    def owe_standing(self) -> None:
        """At the start: what is in quarantine may have been refused because of other rows, and fit by now.

        Where nothing may be quarantined, it stays as it is: it would end the daemon.
        """
        if not self.halt_on_error:
            sources = {each.name: each.source for each in self.context.plan.transforms}
            self._later.found(((sources[name], key) for name, key in self.context.quarantined), self._ahead)

    async def commit_without_progress(self) -> Outcome:
        """Commit what ``redo`` wrote: it stands at no position of the stream."""
        await self._commit()
        return self.outcome

    async def _commit(self) -> None:
        with translated():
            await self._connection.execute("COMMIT")
        self.context.quarantine.end(self._connection)
        if self.outcome.failures:
            transforms = sorted({each.transform for each in self.outcome.failures})
            log.warning("rows quarantined", pipeline=self.context.direction, rows=len(self.outcome.failures),
                        transforms=transforms)  # fmt: skip

    async def apply(self, changes: list[Change], *, position: LSN | None, whole: bool) -> None:
        """Apply changes inside the open transaction.

        :param position: how far the stream has been taken: a clash with rows read again later than this may be
            none. With None, every clash is a true one.
        :param whole: the changes end at a commit, so the constraints must hold.
        :raises NewerReadError: take more of the stream, and apply it together with this, in the same transaction.
        :raises RowError: a row was refused, and ``halt_on_error`` is set.
        """
        self._known = await self._relations.resolve(changes, self._reader)
        changes = await spelt_out(changes, self._known, self.context, self._reader)
        self._asked = await ask(changes, self.context.plan, self._known, self._reader)
        batch = self._compact(changes)
        before, self._moves = self._moves, self._moves.after(batch)
        try:
            await self._apply_compacted(batch, changes, position, whole=whole)
        except NewerReadError:  # it comes again, with more
            self._moves = before
            raise
        self.outcome.changes += batch.counts

    async def _apply_compacted(self, batch: Batch, changes: list[Change], position: LSN | None, *, whole: bool) -> None:
        again = self._due_again(position) if whole else []
        await keep_out(self.context, batch.sources | {name for each in again for name in each.dirty})
        complete = whole and not self.outcome.failures and not self._hopeless  # these are due at the end
        if not complete:
            await self._in_parts()
        try:
            complete &= await self._apply_batch(batch, position, whole=complete, in_order=len(changes) > 1)
        except PendingError:
            await self._at_once()
        except OutOfOrderError:
            await self._in_parts()
            await self._apply_halves(changes, position)
            complete = False
        if whole and not complete:
            await self._finish(position)
        for each in again:
            retried = Batch(dirty=each.dirty, dates=each.dates)
            if not await self._apply_batch(retried, None if each.stubborn else position, whole=True):
                await self._finish(None)

    def _due_again(self, position: LSN | None) -> list[Again]:
        """What was refused because of other rows, and is to be tried again now. In the shadow, nothing is written.

        Without a position, what was due in this transaction before it was extended.
        """
        if not self.context.shadow and position is not None and self._later.is_due(position):
            self._again = self._later.take(position, self._stands, dated=self.context.rolling is not None)
        return self._again

    def _stands(self, source: str, key: Key) -> bool:
        transforms = self.context.plan.sources[source].transforms
        return any((each.name, key) in self.context.quarantine.standing for each in transforms)

    async def _in_parts(self) -> None:
        """What is written from now on until the transaction's end is to hold only then."""
        if self._parts is None:
            self._parts = Parts(await self.savepoint("pieces"), self.context.plan)

    async def savepoint(self, name: str) -> Savepoint:
        """Set one, to which memory goes back together with the rows."""
        memory = Memory(quarantine=self.context.quarantine, outcome=self.outcome, postponed=self._postponed)
        savepoint = Savepoint(name, self._connection, memory)
        await savepoint.begin()
        return savepoint

    async def _at_once(self) -> None:
        """Write anew all that the parts have written, in such a way that it can be found out what does not hold.

        As one batch; or, if it is too large for that, as several, after each of which the constraints hold.
        """
        parts, self._parts = self._parts, None
        if parts is None:
            raise DatabaseError("A constraint is violated that was not when the transaction began.")
        await parts.undo()
        complete = True
        for batch in parts.batches():
            complete &= await self._apply_batch(batch, None, whole=True, several=parts.several)
        if not complete:
            await self._finish(None)

    async def _apply_halves(self, changes: list[Change], position: LSN | None) -> None:
        """In commit order, in ever smaller parts, as the application did it: so the constraints admitted it there."""
        middle = (len(changes) + 1) // 2
        for half in (changes[:middle], changes[middle:]):
            try:
                await self._apply_batch(self._compact(half), position, whole=False, in_order=len(half) > 1)
            except OutOfOrderError:
                await self._apply_halves(half, position)

    async def _finish(self, position: LSN | None) -> None:
        """At the end of what was applied in parts: what was refused on the way may fit now, and deletions are due."""
        refused: dict[str, set[Key]] = {}
        failures, self.outcome.failures = [*self.outcome.failures, *self._hopeless.values()], []
        self._hopeless = {}
        for failure in failures:
            refused.setdefault(failure.source, set()).add(failure.source_key)
        try:
            await self._apply_batch(Batch(dirty=refused), position, whole=True, final=True)
        except PendingError:
            await self._at_once()
        except NewerReadError:  # it ends later, and what was refused is to be tried then
            self.outcome.failures = failures
            raise

    def _compact(self, changes: list[Change]) -> Batch:
        return compact(
            changes,
            self.context.plan,
            self._known,
            self._asked,
            nulls_are_ambiguous=self.nulls_are_ambiguous,
            dated=self.context.rolling is not None,
        )

    async def redo(self, dirty: Mapping[str, set[Key]]) -> None:
        """Read these source keys again and write what they give now: for repairs, and for quarantined rows.

        What is refused stays in quarantine, or goes there, even with ``halt_on_error``: somebody is there to see it.
        """
        self.halt_on_error = False
        await self._in_parts()
        for source, keys in dirty.items():
            for start in range(0, len(listed := list(keys)), REDO_ROWS):
                await self._apply_batch(
                    Batch(dirty={source: set(listed[start : start + REDO_ROWS])}), None, whole=False
                )
        await self._finish(None)

    async def rederive(self, entries: Iterable[Redo], position: LSN | None) -> None:
        """While both schemas take writes: derive again what is noted. Raises NewerReadError as ``apply`` does."""
        listed = list(entries)
        for each in listed:
            for transform, key in await claimed(each, self.context, self._connection):
                await remember(self._connection, self.context.direction, transform, [(each.key, key)])
        modes: tuple[Mode, Mode] = ("repeating", "confirming")
        for mode in modes:
            chosen = [each for each in listed if each.confirms == (mode == "confirming")]
            if chosen:
                self._mode, self._dates = mode, Dates()
                batch = await rederiving(chosen, self.context.plan, self._reader)
                if not await self._apply_batch(batch, position, whole=True):
                    await self._finish(position)
        self._mode = "following"
        await note_redo(self._connection, [each.confirmation for each in listed if each.confirmation is not None])

    async def write_under(self, origin: str) -> None:
        """Let all that is committed from now on carry this origin."""
        await write_under(self._connection, origin)

    async def write_plainly(self) -> None:
        """End that."""
        await write_plainly(self._connection)

    async def delete_rows(self, extra: Mapping[str, Iterable[Key]]) -> Counter[str]:
        """Delete target rows that no source row gives, as ``remove`` does; gives how many of each target."""
        return await remove(self._writer, self.context.plan, extra)

    async def delete_leftovers(self, target: str, keys: Iterable[Key], why: str) -> int:
        """While both schemas take writes: those that no source row gives; not what the application has written last."""
        table, rolling = self._target(target), self.context.rolling
        found = await lock_rows(self._connection, table, self._writer.stage(table), keys)
        ours = [
            key for key, each in found.items() if rolling is None or written_by_the_application(each, rolling) is None
        ]
        await self._writer.keep(table, ours, why)
        return await self._writer.delete(table, ours)

    async def keep_rows(self, target: str, keys: Iterable[Key], why: str) -> int:
        """Copy target rows to where they can be found again, before a repair overwrites or deletes them."""
        return await self._writer.keep(self._target(target), keys, why)

    async def rows_up_to(self, target: str, most: int) -> int:
        """How many rows a target has, as this transaction sees it, but not more than ``most``."""
        return await self._writer.rows_up_to(self._target(target), most)

    def _target(self, name: str) -> Table:
        return next(each for each in self.context.plan.targets if each.called == name)

    async def _apply_batch(
        self,
        batch: Batch,
        position: LSN | None,
        *,
        whole: bool,
        in_order: bool = False,
        final: bool = False,
        several: bool = False,
    ) -> bool:
        """Apply it part by part, as it is read. Gives whether all is done: else ``_finish`` tries again what failed.

        :param several: it is one of several that belong together.
        """
        self._dates.update(batch.dates)
        savepoint: Savepoint | None = None
        async with aclosing(self._reading.parts(batch, self._dates if self._conflicts() else None)) as parts:
            async for part, last in parts:
                if savepoint is None and not last:
                    savepoint, several = await self.savepoint("parts"), True
                try:
                    # what is refused before the rest is there is tried once more at the end
                    halt = self.halt_on_error and whole and (final or not several)
                    await self._apply_part(
                        part, position, whole=whole, in_order=in_order, halt=halt, last=last, final=final
                    )
                except (NewerReadError, OutOfOrderError):
                    if savepoint is not None:  # all of it is to be applied anew
                        await savepoint.back()
                    raise
                except PendingError:
                    await self._note_unwritten(part, parts)
                    raise
                self.outcome.read_again.update({name: len(rows) for name, rows in part.rows.items() if rows})
        if savepoint is not None:
            await savepoint.release()
        if heirs := self._heirs.take():
            several = True
            try:
                await self._apply_batch(Batch(dirty=heirs), position, whole=whole, final=final, several=True)
            except (NewerReadError, OutOfOrderError):
                self._heirs.owe(heirs)  # what left rows to them has been written, and will not find them again
                raise
        return not (several and self.outcome.failures)

    async def _note_unwritten(self, part: Batch, rest: AsyncGenerator[tuple[Batch, bool]]) -> None:
        """What is not written because of earlier parts is written anew together with these, or it would be lost."""
        if self._parts is not None:
            self._parts.note(part)
            async for each, _ in rest:
                self._parts.note(each)

    async def _effects(self, batch: Batch, skip: set[tuple[str, Key]], dates: Dates | None, *, last: bool) -> Effects:
        """What the batch comes to, with what else gives rows that it would delete: this is read into it, or owed."""
        while True:
            effects = await self._deriver.effects(batch, skip, dates, self._moves)
            if self.context.shadow:
                return effects
            reader = self._reader if last else None
            heirs = await self._heirs.inherit(effects, batch, dates, reader)
            if reader is None:
                self._heirs.owe(heirs)
            if not heirs or reader is None:
                return effects
            await self._heirs.read_into(batch, heirs, reader)

    async def _apply_part(
        self, batch: Batch, position: LSN | None, *, whole: bool, in_order: bool, halt: bool, last: bool, final: bool
    ) -> None:
        skip = set(self._hopeless)
        refused: dict[tuple[str, Key], Failure] = {}
        spared: set[tuple[Name, Key]] = set()
        while True:  # ends: each time round, at least one more is left out
            conflicts = self._conflicts()
            effects = await self._effects(batch, skip, self._dates if conflicts else None, last=last)
            ahead = max(self._ahead, batch.read_at or ZERO)
            self._read_to = max(self._read_to, ahead)
            effects.spared |= spared
            # Anew each time round: what failed because of another row may well be good without that one.
            failures = refused | {each.place: each for each in effects.failures}
            self._postponed.take(effects, whole=whole)
            try:
                refusals = await self._try_write(effects, conflicts, whole=whole)
            except PendingError as error:
                if position is not None and position < ahead:
                    raise NewerReadError(error, ahead) from None
                raise
            if not refusals:
                if conflicts is not None:
                    self.outcome.lost += await conflicts.store(effects, batch.overwritten)
                await self._keep(effects, failures, halt=halt and (final or not self._heirs.owed))
                # Before the commit, not after: a window that misses a touch would let a stale row through.
                batch.touch(self.context.touches)
                if self._parts is not None:
                    self._parts.note(batch)
                self._note_newest(batch, skip, ahead)
                return
            clash = next((each.error for each in refusals if each.error.sqlstate in CLASHES), None)
            if clash is not None and position is not None and position < ahead and not self._stubborn(refusals):
                raise NewerReadError(clash, ahead)
            if clash is not None and in_order:
                self._hopeless |= {
                    (each.transform.name, each.source_key): effects.failure(
                        each.transform, each.source_key, str(each.error)
                    )
                    for each in refusals
                    if each.error.sqlstate not in CLASHES
                }
                raise OutOfOrderError(clash.problem, clash.remedy, clash.sqlstate)
            for refusal in refusals:
                spared |= refusal.spared
                if refusal.error.sqlstate in CLASHES:
                    self._later.clashed(refusal.transform.source, refusal.source_key)
                if refusal.blames_a_source_row(self.context.plan):
                    found = effects.failure(refusal.transform, refusal.source_key, str(refusal.error))
                    refused[found.place] = found
                    skip.add(found.place)
                else:  # nobody's any more: no source row says that it is to go
                    self.context.suspect([refusal.transform.source])
                    log.error("a row outlived a TRUNCATE: all rows are compared", error=refusal.error.problem)
            self._postponed.withdraw(skip)

    def _note_newest(self, batch: Batch, skip: set[tuple[str, Key]], ahead: LSN) -> None:
        """Rows may be as new as ``ahead`` now, unless nothing that was read is written: else later clashes wait."""
        transforms = {name: self.context.plan.sources[name].transforms for name in batch.rows}
        if any((each.name, key) not in skip for name, rows in batch.rows.items() for each in transforms[name]
               for key in rows):  # fmt: skip
            self._ahead = ahead

    def _stubborn(self, refusals: Iterable[Refusal]) -> bool:
        """Whether more of the stream has been tried for all that clash, in vain: else each batch would wait for it."""
        return all(
            self._later.is_stubborn(each.transform.source, each.source_key)
            for each in refusals
            if each.error.sqlstate in CLASHES
        )

    def _conflicts(self) -> Conflicts | None:
        """Who decides while both schemas take writes."""
        rolling = None if self.context.shadow else self.context.rolling
        if rolling is None:
            return None
        return Conflicts(self.context, rolling, self._writer, self._dates, self._mode)

    async def _write_undisputed(
        self, effects: Effects, conflicts: Conflicts | None, *, whole: bool
    ) -> tuple[Written, list[Refusal]]:
        for _ in range(LOOKS):
            if conflicts is not None:
                await conflicts.look(effects)
            written, refusals = await write_effects(self._writer, self.context.plan, effects, whole=whole)
            if refusals or conflicts is None or not await conflicts.overtaken(effects):
                return written, refusals
            await self._execute("ROLLBACK TO SAVEPOINT batch")
        raise RetryableError("Rows that are written here are written by the application again and again.")

    async def _try_write(self, effects: Effects, conflicts: Conflicts | None, *, whole: bool) -> list[Refusal]:
        """Write inside a savepoint; gives the refused rows, none when all is written."""
        if self.context.shadow:
            return []
        await self._execute("SAVEPOINT batch")
        written, refusals = await self._write_undisputed(effects, conflicts, whole=whole)
        if refusals:
            await self._execute("ROLLBACK TO SAVEPOINT batch")
        else:
            self.outcome.written += written
        await self._execute("RELEASE SAVEPOINT batch")
        return refusals

    async def _keep(self, effects: Effects, failures: dict[tuple[str, Key], Failure], *, halt: bool) -> None:
        """Change the memory and the quarantine as the rows have changed."""
        quarantine = self.context.quarantine
        refused = quarantine.heeded(failures.values())
        if refused and halt:
            raise halted(refused[0])
        for name, pairs in effects.forgotten.items():
            await forget(self._connection, self.context.direction, name, pairs)
        for name, pairs in effects.remembered.items():
            await remember(self._connection, self.context.direction, name, pairs)
        if refused:
            await quarantine.keep(self._connection, refused)
            self.outcome.failures += refused
        await quarantine.release(
            self._connection, [place for place in effects.good if place in quarantine and place not in failures]
        )

    async def _execute(self, statement: str) -> None:
        with translated():
            await self._connection.execute(statement.encode())
