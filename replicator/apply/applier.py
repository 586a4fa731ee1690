"""Writes a pipeline's batches, each with its progress in one transaction on the target."""

from collections import Counter
from collections.abc import Iterable, Mapping

from replicator.apply.authorship import written_by_the_application
from replicator.apply.deferred_deletes import DeferredDeletes
from replicator.apply.later import Later
from replicator.apply.outcome import Outcome
from replicator.apply.relations import Relations
from replicator.apply.removing import remove
from replicator.apply.tools import Tools
from replicator.apply.transaction import Transaction
from replicator.apply.undoing import Savepoint
from replicator.apply.work import Work
from replicator.core.changes import Change, RelationName
from replicator.core.lsn import LSN
from replicator.core.tables import Key, Table
from replicator.postgres.control.progress import enter, write_applied
from replicator.postgres.control.rederivations import Rederivation
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.rows.versions import lock_rows
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.wire.origins import write_plainly, write_under
from replicator.postgres.wire.snapshots import look
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.log import get_logger

log = get_logger("apply")


class Applier:
    """One pipeline's writer. Between ``begin`` and ``commit`` it holds one transaction on the target open."""

    def __init__(self, context: Context, *, nulls_are_ambiguous: bool) -> None:
        self.context = context
        self._nulls_are_ambiguous = nulls_are_ambiguous
        self._relations = Relations(context)
        self._later = Later()
        self._opened: Tools | None = None
        self._now = self._transaction()

    def _transaction(self) -> Transaction:
        return Transaction(postponed=DeferredDeletes(self.context.plan), halt=self.context.halt_on_error)

    @property
    def outcome(self) -> Outcome:
        """What has come of the open transaction so far, or of the last one."""
        return self._now.outcome

    @property
    def _tools(self) -> Tools:
        if self._opened is None:
            raise RuntimeError("not open")
        return self._opened

    @property
    def _connection(self) -> Connection:
        return self._tools.connection

    @property
    def _writer(self) -> TargetWriter:
        return self._tools.writer

    def forget_relations(self) -> None:
        """Ask again what each name in the log stands for: partitions have come or gone."""
        self._relations.forget()

    def partitions_met(self) -> dict[RelationName, Table]:
        """The partitions that changes have come from for the first time since the last call."""
        return self._relations.met()

    async def open(self) -> None:
        """Connect to both sides and prepare the staging tables."""
        self._opened = await Tools.open(self.context, self._relations, self._later)

    async def close(self) -> None:
        """Give the connections back; an open transaction is rolled back by that."""
        if self._opened is not None:
            await self._opened.close()

    def read_through(self, connection: Connection | None) -> None:
        """Read the source on another connection, which gives text; with None, on its own again."""
        self._tools.read_through(connection)

    async def begin(self) -> None:
        """Open the transaction. Raises LeaseError when another daemon has taken over."""
        self._now = self._transaction()
        self._work = Work(self._tools, self._now, nulls_are_ambiguous=self._nulls_are_ambiguous)
        self._later.begin()
        self._tools.heirs.begin()
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
            await look(self._tools.reader, visibility)  # so that few are left to be stored
        # The next daemon's reads must see what this one's stream has delivered, or deleted rows come back (I4).
        # In the rows' transaction: after a crash, the rows would be applied twice. guard: PROGRESS_WITH_ROWS
        # guard: SIGHT_KEPT; mutation: unseen-stored
        await write_applied(
            self._connection, self.context.direction, end, unseen=visibility.unseen, started=started
        )  # fmt: skip
        await reach(Failpoint.BATCH_COMMITTING)
        await self._commit()
        self._later.commit(self.outcome.failures, end, self._now.read_to, self._now.dates)
        return self.outcome

    def owes(self, position: LSN) -> bool:
        """Whether refused rows are to be tried again now, though the stream has brought nothing."""
        return not self.context.shadow and self._later.is_due(position)

    def owe_standing(self) -> None:
        """At the start: what is in quarantine may have been refused because of other rows, and fit by now.

        Where nothing may be quarantined, it stays as it is: it would end the daemon.
        """
        if not self.context.halt_on_error:
            sources = {each.name: each.source for each in self.context.plan.transforms}
            self._later.found(((sources[name], key) for name, key in self.context.quarantined), self._tools.ahead)

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
        """Apply changes inside the open transaction. As ``Work.apply``, and raises as that."""
        await self._work.apply(changes, position=position, whole=whole)

    async def redo(self, dirty: Mapping[str, set[Key]]) -> None:
        """Read these source keys again and write what they give now. As ``Work.redo``."""
        await self._work.redo(dirty)

    async def rederive(self, entries: Iterable[Rederivation], position: LSN | None) -> None:
        """While both schemas take writes: derive again what is noted. As ``Work.rederive``."""
        await self._work.rederive(entries, position)

    async def savepoint(self, name: str) -> Savepoint:
        """Set one, to which memory goes back together with the rows."""
        return await self._now.savepoint(name, self._connection, self.context.quarantine)

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
        return next(each for each in self.context.plan.targets if each.declared == name)
