"""Writes one part of a batch, with what memory and the quarantine say of it; finds out which rows are refused."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from replicator.apply.conflicts import Conflicts
from replicator.apply.dates import Dates
from replicator.apply.deleting import Written
from replicator.apply.effects import Effects
from replicator.apply.net_changes import NetChanges
from replicator.apply.order import CLASHES
from replicator.apply.outcome import NewerReadError, OutOfOrderError, PendingError
from replicator.apply.search import Refusal
from replicator.apply.tools import Tools
from replicator.apply.transaction import Transaction
from replicator.apply.undisputed import Undisputed
from replicator.apply.writing import write_effects
from replicator.core.lsn import LSN, ZERO
from replicator.core.tables import Key, Name
from replicator.errors import RetryableError
from replicator.postgres.control.key_map import forget, remember
from replicator.postgres.control.quarantine import Failure, halted
from replicator.postgres.rows.conflict_policy import LastWriteWins
from replicator.runtime.log import get_logger

log = get_logger("apply")

LOOKS = 20
"""How often a batch is written again because the application wrote meanwhile."""


@dataclass
class LeftOut:
    """What is not written of a part: of which transform and source key, with the failure; target rows that stay."""

    skip: set[tuple[str, Key]]
    refused: dict[tuple[str, Key], Failure] = field(default_factory=dict)
    spared: set[tuple[Name, Key]] = field(default_factory=set)


class PartWriter:
    """Of one transaction."""

    def __init__(self, tools: Tools, now: Transaction) -> None:
        self._tools = tools
        self._context = tools.context
        self._now = now

    async def _effects(
        self, net: NetChanges, skip: set[tuple[str, Key]], dates: Dates | None, *, last: bool
    ) -> Effects:
        """What the batch comes to, with what else gives rows that it would delete: this is read into it, or owed."""
        while True:
            effects = await self._tools.deriver.effects(net, skip, dates, self._now.moves)
            if self._context.shadow:
                return effects
            reader = self._tools.reader if last else None
            heirs = await self._tools.heirs.inherit(effects, net, dates, reader)
            if reader is None:
                self._tools.heirs.owe(heirs)
            if not heirs or reader is None:
                return effects
            await self._tools.heirs.read_into(net, heirs, reader)

    async def apply(
        self, net: NetChanges, position: LSN | None, *, whole: bool, in_order: bool, halt: bool, last: bool, final: bool
    ) -> None:
        """Write it. Refused rows are left out and quarantined, unless more of the stream, or an order, may help.

        :param position: as in ``Work.apply``; ``whole`` likewise.
        :param in_order: it holds several changes, which can be tried one after the other.
        :param halt: a refused row is an error, if no more rows that are owed come; with ``final``, in any case.
        :param last: no other part of the batch follows.
        :raises NewerReadError, OutOfOrderError, PendingError: it is to be applied in another way.
        """
        left_out = LeftOut(skip=set(self._now.hopeless))
        while True:  # ends: each time round, at least one more is left out
            decider = self.decider()
            effects = await self._effects(net, left_out.skip, decider.dates, last=last)
            ahead = max(self._tools.ahead, net.read_at or ZERO)
            self._now.read_to = max(self._now.read_to, ahead)
            effects.spared |= left_out.spared
            # Anew each time round: what failed because of another row may well be good without that one.
            failures = left_out.refused | {each.place: each for each in effects.failures}
            self._now.postponed.take(effects, whole=whole)
            try:
                refusals = await self._try_write(effects, decider, whole=whole)
            except PendingError as error:
                if position is not None and position < ahead:
                    raise NewerReadError(error, ahead) from None
                raise
            if not refusals:
                self._now.outcome.lost += await decider.store(effects, net.overwritten)
                await self._keep(effects, failures, halt=halt and (final or not self._tools.heirs.owed))
                self._written(net, left_out.skip, ahead)
                return
            self._judge(effects, refusals, newer=ahead if position is not None and position < ahead else None,
                        in_order=in_order)  # fmt: skip
            # All others are written: the progress passes the changes to these too (I7). guard: ONE_ROW
            await self._leave_out(effects, refusals, left_out)
            self._now.postponed.withdraw(left_out.skip)

    def _written(self, net: NetChanges, skip: set[tuple[str, Key]], ahead: LSN) -> None:
        # Before the commit, not after: a window that misses a touch would let a stale row through.
        net.touch(self._context.dirty_keys)
        if self._now.parts is not None:
            self._now.parts.note(net)
        self._note_newest(net, skip, ahead)

    def _judge(self, effects: Effects, refusals: list[Refusal], *, newer: LSN | None, in_order: bool) -> None:
        """Raise where a clash may be none: with more of the stream, or in the order in which the changes were made."""
        clash = next((each.error for each in refusals if each.error.sqlstate in CLASHES), None)
        if clash is not None and newer is not None and not self._stubborn(refusals):
            raise NewerReadError(clash, newer)
        if clash is not None and in_order:
            self._now.hopeless |= {
                (each.transform.name, each.source_key): effects.failure(
                    each.transform, each.source_key, str(each.error)
                )
                for each in refusals
                if each.error.sqlstate not in CLASHES
            }
            raise OutOfOrderError(clash.problem, clash.remedy, clash.sqlstate)

    async def _leave_out(self, effects: Effects, refusals: list[Refusal], left_out: LeftOut) -> None:
        for refusal in refusals:
            left_out.spared |= refusal.spared
            if refusal.error.sqlstate in CLASHES:
                self._tools.later.clashed(refusal.transform.source, refusal.source_key)
            if await refusal.blames_a_source_row(self._tools.connection, self._context.plan):
                found = effects.failure(refusal.transform, refusal.source_key, str(refusal.error))
                left_out.refused[found.place] = found
                left_out.skip.add(found.place)
            else:  # nobody's any more: no source row says that it is to go
                self._context.suspect([refusal.transform.source])
                log.error("a row outlived a TRUNCATE: all rows are compared", error=refusal.error.problem)

    def _note_newest(self, net: NetChanges, skip: set[tuple[str, Key]], ahead: LSN) -> None:
        """Rows may be as new as ``ahead`` now, unless nothing that was read is written: else later clashes wait."""
        transforms = {name: self._context.plan.sources[name].transforms for name in net.rows}
        if any((each.name, key) not in skip for name, rows in net.rows.items() for each in transforms[name]
               for key in rows):  # fmt: skip
            self._tools.ahead = ahead

    def _stubborn(self, refusals: Iterable[Refusal]) -> bool:
        """Whether more of the stream has been tried for all that clash, in vain: else each batch would wait for it."""
        return all(
            self._tools.later.is_stubborn(each.transform.source, each.source_key)
            for each in refusals
            if each.error.sqlstate in CLASHES
        )

    def decider(self) -> Undisputed:
        """Who decides what has lost; in the shadow nothing is written, so nothing is decided."""
        policy = self._context.policy
        if self._context.shadow or not isinstance(policy, LastWriteWins):
            return Undisputed()
        return Conflicts(self._context, policy, self._tools.writer, self._tools.reader, self._now.dates, self._now.mode)

    async def _write_undisputed(
        self, effects: Effects, decider: Undisputed, *, whole: bool
    ) -> tuple[Written, list[Refusal]]:
        for _ in range(LOOKS):
            await decider.look(effects)
            written, refusals = await write_effects(self._tools.writer, self._context.plan, effects, whole=whole)
            if refusals or not await decider.overtaken(effects):
                return written, refusals
            await self._tools.execute("ROLLBACK TO SAVEPOINT batch")
        raise RetryableError("Rows that are written here are written by the application again and again.")

    async def _try_write(self, effects: Effects, decider: Undisputed, *, whole: bool) -> list[Refusal]:
        """Write inside a savepoint; gives the refused rows, none when all is written."""
        if self._context.shadow:
            return []  # before its start marker, the stream carries what this side's owner has written. guard: SHADOW
        await self._tools.execute("SAVEPOINT batch")
        written, refusals = await self._write_undisputed(effects, decider, whole=whole)
        if refusals:
            await self._tools.execute("ROLLBACK TO SAVEPOINT batch")
        else:
            self._now.outcome.written += written
        await self._tools.execute("RELEASE SAVEPOINT batch")
        return refusals

    async def _keep(self, effects: Effects, failures: dict[tuple[str, Key], Failure], *, halt: bool) -> None:
        """Change the memory and the quarantine as the rows have changed."""
        quarantine = self._context.quarantine
        refused = quarantine.heeded(failures.values())
        if refused and halt:
            raise halted(refused[0])
        for name, pairs in effects.forgotten.items():
            await forget(self._tools.connection, self._context.direction, name, pairs)
        for name, pairs in effects.remembered.items():
            await remember(self._tools.connection, self._context.direction, name, pairs)
        if refused:
            # With the progress: after a crash, a row would be neither applied nor in quarantine (I7).
            await quarantine.keep(self._tools.connection, refused)  # guard: QUARANTINED_WITH_PROGRESS
            self._now.outcome.failures += refused
        # A row whose next version is written is as it should be: what stays here shuts the gate. guard: RELEASED
        await quarantine.release(
            self._tools.connection, [place for place in effects.good if place in quarantine and place not in failures]
        )
