"""How changes are applied in one transaction on the target: in whole batches, in parts, in the order they were made."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing

from replicator.apply.compacting import ask, compact
from replicator.apply.conflicts import Mode
from replicator.apply.dates import Dates
from replicator.apply.emptied import spelt_out
from replicator.apply.later import Again
from replicator.apply.net_changes import NetChanges
from replicator.apply.net_changes import Relations as Known
from replicator.apply.outcome import NewerReadError, Outcome, OutOfOrderError, PendingError
from replicator.apply.part import PartWriter
from replicator.apply.reading import keep_out
from replicator.apply.rederiving import claimed, rederiving
from replicator.apply.tools import Tools
from replicator.apply.transaction import Transaction
from replicator.apply.undoing import Savepoint
from replicator.core.changes import Change
from replicator.core.lsn import LSN
from replicator.core.tables import Key
from replicator.errors import DatabaseError
from replicator.postgres.control.key_map import remember
from replicator.postgres.control.rederivations import Rederivation, note_rederivations
from replicator.postgres.rows.keys import Asked

ROWS_AT_ONCE = 5_000
"""How many rows are read again at a time."""


class Work:
    """What is done in one open transaction."""

    def __init__(self, tools: Tools, now: Transaction, *, nulls_are_ambiguous: bool) -> None:
        self.tools = tools
        self._context = tools.context
        self._now = now
        self._part = PartWriter(tools, now)
        self._nulls_are_ambiguous = nulls_are_ambiguous
        self._known: Known = {}
        """What the names in the changes that are being written stand for."""
        self._asked = Asked()
        self.end: LSN | None = None
        """All changes up to there are written."""
        self.started = False
        """With it, the start marker has been passed."""

    @property
    def outcome(self) -> Outcome:
        """What has come of it so far."""
        return self._now.outcome

    @property
    def read_to(self) -> LSN:
        """Its newest read of the source."""
        return self._now.read_to

    @property
    def dates(self) -> Dates:
        """When the application made the changes, while both schemas take writes."""
        return self._now.dates

    def reach(self, end: LSN, *, started: bool = False) -> None:
        """All changes up to a position are written: it is stored when the transaction is committed."""
        self.end, self.started = end, started

    async def apply(self, changes: list[Change], *, position: LSN | None, whole: bool) -> None:
        """Apply changes inside the open transaction.

        :param position: how far the stream has been taken: a clash with rows read again later than this may be
            none. With None, every clash is a true one.
        :param whole: the changes end at a commit, so the constraints must hold.
        :raises NewerReadError: take more of the stream, and apply it together with this, in the same transaction.
        :raises RowError: a row was refused, and ``halt_on_error`` is set.
        """
        self._known = await self.tools.relations.resolve(changes, self.tools.reader)
        changes = await spelt_out(changes, self._known, self._context, self.tools.reader)
        self._asked = await ask(changes, self._context.plan, self._known, self.tools.reader)
        net = self._compact(changes)
        before, self._now.moves = self._now.moves, self._now.moves.after(net)
        try:
            await self._apply_compacted(net, changes, position, whole=whole)
        except NewerReadError:  # it comes again, with more
            self._now.moves = before
            raise
        self._now.outcome.changes += net.counts

    async def _apply_compacted(
        self, net: NetChanges, changes: list[Change], position: LSN | None, *, whole: bool
    ) -> None:
        again = self._due_again(position) if whole else []
        await keep_out(self._context, net.sources | {name for each in again for name in each.dirty})
        complete = whole and not self._now.outcome.failures and not self._now.hopeless  # these are due at the end
        if not complete:
            await self._in_parts()
        try:
            complete &= await self._apply_batch(net, position, whole=complete, in_order=len(changes) > 1)
        except PendingError:
            await self._at_once()
        except OutOfOrderError:
            await self._in_parts()
            await self._apply_halves(changes, position)
            complete = False
        if whole and not complete:
            await self._finish(position)
        for each in again:
            retried = NetChanges(dirty=each.dirty, dates=each.dates)
            if not await self._apply_batch(retried, None if each.stubborn else position, whole=True):
                await self._finish(None)

    def _due_again(self, position: LSN | None) -> list[Again]:
        """What was refused because of other rows, and is to be tried again now. In the shadow, nothing is written.

        Without a position, what was due in this transaction before it was extended.
        """
        if not self._context.shadow and position is not None and self.tools.later.is_due(position):
            self._now.again = self.tools.later.take(position, self._stands, dated=self._context.policy.both_write)
        return self._now.again

    def _stands(self, source: str, key: Key) -> bool:
        transforms = self._context.plan.sources[source].transforms
        return any((each.name, key) in self._context.quarantine.standing for each in transforms)

    async def _in_parts(self) -> None:
        await self._now.in_parts(self.tools.connection, self._context.quarantine, self._context.plan)

    async def _at_once(self) -> None:
        """Write anew all that the parts have written, in such a way that it can be found out what does not hold.

        As one batch; or, if it is too large for that, as several, after each of which the constraints hold.
        """
        parts, self._now.parts = self._now.parts, None
        if parts is None:
            raise DatabaseError("A constraint is violated that was not when the transaction began.")
        await parts.undo()
        complete = True
        for net in parts.batches():
            complete &= await self._apply_batch(net, None, whole=True, several=parts.several)
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
        failures, self._now.outcome.failures = [*self._now.outcome.failures, *self._now.hopeless.values()], []
        self._now.hopeless = {}
        for failure in failures:
            refused.setdefault(failure.source, set()).add(failure.source_key)
        try:
            await self._apply_batch(NetChanges(dirty=refused), position, whole=True, final=True)
        except PendingError:
            await self._at_once()
        except NewerReadError:  # it ends later, and what was refused is to be tried then
            self._now.outcome.failures = failures
            raise

    def _compact(self, changes: list[Change]) -> NetChanges:
        return compact(
            changes,
            self._context.plan,
            self._known,
            self._asked,
            nulls_are_ambiguous=self._nulls_are_ambiguous,
            dated=self._context.policy.both_write,
        )

    async def savepoint(self, name: str) -> Savepoint:
        """Set one, to which memory goes back together with the rows."""
        return await self._now.savepoint(name, self.tools.connection, self._context.quarantine)

    async def derive_again(self, dirty: Mapping[str, set[Key]]) -> None:
        """Read these source keys again and write what they give now: for repairs, and for quarantined rows.

        What is refused stays in quarantine, or goes there, even with ``halt_on_error``: somebody is there to see it.
        """
        self._now.halt = False
        await self._in_parts()
        for source, keys in dirty.items():
            for start in range(0, len(listed := list(keys)), ROWS_AT_ONCE):
                await self._apply_batch(
                    NetChanges(dirty={source: set(listed[start : start + ROWS_AT_ONCE])}), None, whole=False
                )
        await self._finish(None)

    async def rederive(self, entries: Iterable[Rederivation], position: LSN | None) -> None:
        """While both schemas take writes: derive again what is noted. Raises NewerReadError as ``apply`` does."""
        listed = list(entries)
        for each in listed:
            for transform, key in await claimed(each, self._context, self.tools.connection):
                await remember(self.tools.connection, self._context.direction, transform, [(each.key, key)])
        modes: tuple[Mode, Mode] = ("repeating", "confirming")
        for mode in modes:
            chosen = [each for each in listed if each.confirms == (mode == "confirming")]
            if chosen:
                self._now.mode, self._now.dates = mode, Dates()
                net = await rederiving(chosen, self._context.plan, self.tools.reader)
                if not await self._apply_batch(net, position, whole=True):
                    await self._finish(position)
        self._now.mode = "following"
        await note_rederivations(
            self.tools.connection, [each.confirmation for each in listed if each.confirmation is not None]
        )

    async def _apply_batch(
        self,
        net: NetChanges,
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
        self._now.dates.update(net.dates)
        savepoint: Savepoint | None = None
        async with aclosing(self.tools.reading.parts(net, self._part.decider().dates)) as parts:
            async for part, last in parts:
                if savepoint is None and not last:
                    savepoint, several = (
                        await self._now.savepoint("parts", self.tools.connection, self._context.quarantine),
                        True,
                    )
                try:
                    # what is refused before the rest is there is tried once more at the end
                    halt = self._now.halt and whole and (final or not several)
                    await self._part.apply(
                        part, position, whole=whole, in_order=in_order, halt=halt, last=last, final=final
                    )
                except (NewerReadError, OutOfOrderError):
                    if savepoint is not None:  # all of it is to be applied anew
                        await savepoint.back()
                    raise
                except PendingError:
                    await self._note_unwritten(part, parts)
                    raise
                self._now.outcome.read_again.update({name: len(rows) for name, rows in part.rows.items() if rows})
        if savepoint is not None:
            await savepoint.release()
        if heirs := self.tools.heirs.take():
            several = True
            try:
                await self._apply_batch(NetChanges(dirty=heirs), position, whole=whole, final=final, several=True)
            except (NewerReadError, OutOfOrderError):
                self.tools.heirs.owe(heirs)  # what left rows to them has been written, and will not find them again
                raise
        return not (several and self._now.outcome.failures)

    async def _note_unwritten(self, part: NetChanges, rest: AsyncGenerator[tuple[NetChanges, bool]]) -> None:
        """What is not written because of earlier parts is written anew together with these, or it would be lost."""
        if self._now.parts is not None:
            self._now.parts.note(part)
            async for each, _ in rest:
                self._now.parts.note(each)
