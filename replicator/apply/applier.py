"""Writes a pipeline's batches, each with its progress in one transaction on the target."""

import contextlib
from collections.abc import AsyncIterator, Callable

from replicator.apply.deferred_deletes import DeferredDeletes
from replicator.apply.later import Later
from replicator.apply.outcome import Outcome
from replicator.apply.relations import Relations
from replicator.apply.tools import Tools
from replicator.apply.transaction import Transaction
from replicator.apply.work import Work
from replicator.core.changes import RelationName
from replicator.core.lsn import LSN, ZERO, DurableLSN, format_lsn
from replicator.core.tables import Table
from replicator.errors import ReplicatorError
from replicator.postgres.control.progress import commit_through, fence
from replicator.postgres.rows.context import Context
from replicator.postgres.session.committing import commit
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.wire.origins import write_plainly, write_under
from replicator.postgres.wire.snapshots import look
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.log import get_logger

log = get_logger("apply")


class Applier:
    """One pipeline's writer: it has at most one transaction on the target open."""

    def __init__(self, context: Context, *, nulls_are_ambiguous: bool) -> None:
        self.context = context
        self._nulls_are_ambiguous = nulls_are_ambiguous
        self._relations = Relations(context)
        self._later = Later()
        self._opened: Tools | None = None
        self._outcome = Outcome()

    @property
    def outcome(self) -> Outcome:
        """What has come of the open transaction so far, or of the last one."""
        return self._outcome

    @property
    def _tools(self) -> Tools:
        if self._opened is None:
            raise RuntimeError("not open")
        return self._opened

    @property
    def _connection(self) -> Connection:
        return self._tools.connection

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

    async def write_under(self, origin: str) -> None:
        """Let all that is committed from now on carry this origin."""
        await write_under(self._connection, origin)

    async def write_plainly(self) -> None:
        """End that."""
        await write_plainly(self._connection)

    # ---- the transaction

    @contextlib.asynccontextmanager
    async def transaction(
        self, confirm: Callable[[DurableLSN], None] | None = None, *, committed: Failpoint = Failpoint.BATCH_COMMITTED
    ) -> AsyncIterator[Work]:
        """One transaction on the target: begun, committed at the end of the block, undone when the block raises.

        What the block ends with ``Work.reach`` is stored with the rows; without it, they stand at no position of the
        stream. Nothing else begins, commits or rolls back what an applier writes.

        :param confirm: is told the position once it is durable.
        :param committed: is reached between the two.
        :raises LeaseError: another daemon has taken over.
        """
        try:
            work = await self._begin()
            yield work
            durable = await self._commit(work)  # mutation: confirm-after-commit
        except Exception:
            await self._roll_back()
            raise
        await reach(committed)
        if work.started:
            self.context.shadow = False
            log.info("start marker reached", direction=self.context.direction, position=format_lsn(durable or ZERO))
        if durable is not None and confirm is not None:
            confirm(durable)  # after the commit, or a crash in between loses the batch (I2). guard: CONFIRM_LATE

    async def _begin(self) -> Work:
        now = Transaction(postponed=DeferredDeletes(self.context.plan), halt=self.context.halt_on_error)
        self._outcome = now.outcome
        work = Work(self._tools, now, nulls_are_ambiguous=self._nulls_are_ambiguous)
        self._later.begin()
        self._tools.heirs.begin()
        with translated():
            await self._connection.execute("BEGIN")
            await fence(self._connection, self.context.lease_epoch)
            await self._connection.execute("SET CONSTRAINTS ALL DEFERRED")
        self.context.quarantine.begin(self._connection)
        self._tools.writer.transaction_begins()
        return work

    async def _roll_back(self) -> None:
        self.context.quarantine.undo(self._connection)
        with contextlib.suppress(ReplicatorError):  # a connection that is lost has done it; the block's error is told
            if not self._connection.closed:
                with translated():
                    await self._connection.execute("ROLLBACK")

    async def _commit(self, work: Work) -> DurableLSN | None:
        """With the progress, if it ends at a position of the stream."""
        durable = None
        if work.end is None:
            await commit(self._connection)
        else:
            visibility = self.context.visibility
            if visibility:
                await look(self._tools.reader, visibility)  # so that few are left to be stored
            # The next daemon's reads must see what this one's stream has delivered, or deleted rows come back (I4).
            # guard: SIGHT_KEPT; mutation: unseen-stored
            durable = await commit_through(
                self._connection, self.context.direction, work.end, unseen=visibility.unseen, started=work.started
            )
        self.context.quarantine.end(self._connection)
        failures = work.outcome.failures
        if failures:
            transforms = sorted({each.transform for each in failures})
            log.warning("rows quarantined", pipeline=self.context.direction, rows=len(failures), transforms=transforms)
        if durable is not None:
            self._later.commit(failures, durable, work.read_to, work.dates)
        return durable
