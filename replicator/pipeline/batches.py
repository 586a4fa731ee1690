"""Applies the stream batch by batch: each batch is one transaction, and ends where a transaction of the source ends."""

from collections.abc import Awaitable, Callable

from replicator.apply.applier import Applier
from replicator.apply.outcome import NewerReadError, Outcome
from replicator.apply.work import Work
from replicator.core.lsn import DurableLSN, format_lsn
from replicator.errors import RetryableError
from replicator.follow.transaction_buffer import Batch, TransactionBuffer
from replicator.postgres.rows.context import Context
from replicator.runtime.log import get_logger

log = get_logger("batches")

Written = Callable[[Work, Batch], Awaitable[None]]

EXTENSIONS = 5
"""How often a batch is extended; what clashes still does so for a reason."""

EXTENDED_BYTES = 16 << 20
"""How large a batch may become by that: the stream may be hours behind what was read again."""


class Batches:
    """One pipeline's."""

    def __init__(
        self, context: Context, inbox: TransactionBuffer, applier: Applier, nudge: Callable[[], Awaitable[None]]
    ) -> None:
        self._context = context
        self._inbox = inbox
        self._applier = applier
        self._nudge = nudge
        self.batches_taken = 0
        """How many have been begun."""

    async def apply(
        self, batch: Batch, written: Written, confirm: Callable[[DurableLSN], None]
    ) -> tuple[Batch, Outcome]:
        """Write a batch, with the rest of its last transaction, in one transaction of the target's.

        While both schemas take writes, the application's transactions may be in the way: give way, try again.

        :param written: is awaited before the commit.
        :param confirm: as in ``Applier.transaction``.
        :return: the batch that ends it, and what came of all.
        """
        whole = batch.end is not None
        while True:
            committing = False
            try:
                async with self._applier.transaction(confirm) as work:
                    last = await self._apply_batches(work, batch)
                    await written(work, last)
                    committing = True
            except RetryableError as error:
                # Not once the commit is sent: it may have been done.
                if not self._context.policy.both_write or not whole or committing:
                    raise
                log.info("giving way to the application", direction=self._context.direction, error=error.problem)
            else:
                return last, work.outcome

    async def _apply_batches(self, work: Work, batch: Batch) -> Batch:
        extensions = 0
        while True:
            # Only at a commit, and not for ever, can more of the stream help against a clash.
            position = batch.end if extensions < EXTENSIONS else None
            self.batches_taken += 1
            try:
                await work.apply(batch.changes, position=position, whole=batch.end is not None)
            except NewerReadError as clash:
                extensions = extensions + 1 if await self._extend(batch, clash) else EXTENSIONS
                continue
            if batch.end is not None:
                return batch
            batch = await self._inbox.take(self._context.batch_rows)

    async def _extend(self, batch: Batch, clash: NewerReadError) -> bool:
        """Take what the stream has up to the read that clashed into the same batch; gives whether there was room.

        If not, the row that clashes is quarantined until the stream has come to what was read. Where nothing may be
        quarantined, there is always room.
        """
        log.info("batch extended to a newer read", direction=self._context.direction, position=format_lsn(clash.lsn))
        await self._nudge()
        while batch.end is None or batch.end < clash.lsn:
            if batch.size > EXTENDED_BYTES and not self._context.halt_on_error:
                return False
            batch.extend(await self._inbox.take(self._context.batch_rows))
        return True
