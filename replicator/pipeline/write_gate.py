"""When a pipeline may write: one at a time, and not while it is paused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from replicator.apply.applier import Applier
from replicator.pipeline.source_monitor import SourceMonitor
from replicator.postgres.rows.context import Context
from replicator.postgres.session.connect import Connection
from replicator.postgres.session.held import hold
from replicator.verify import Verifier


class WriteGate:
    """Given to whoever wants to write on the target. A cutover freezes them."""

    def __init__(self, context: Context, watch: SourceMonitor, applier: Applier, verifier: Verifier) -> None:
        self._context = context
        self._watch = watch
        self._applier = applier
        self._verifier = verifier
        self._going = asyncio.Event()
        self._going.set()
        self._holder: Connection | None = None

    @property
    def paused(self) -> bool:
        """Whether nobody gets one."""
        return not self._going.is_set()

    @property
    def holder(self) -> Connection | None:
        """The transaction that keeps all others from the source's tables, in some cutovers: what to read them on."""
        return self._holder

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Alone on the target, and not paused; while both schemas take writes, alone on both sides."""
        while True:
            await self._going.wait()
            async with self._context.rw_lock.write(), self._context.policy.turn():
                if not self.paused:
                    self._applier.read_through(self._holder)  # between two batches: one reads at one point only
                    yield
                    return

    async def pause(self) -> None:
        """Give none until ``thaw``; what is under way ends first.

        In a cutover, once drained: after its commit, what comes down this stream are the opposite pipeline's writes.
        To apply these would undo what the application has done since.
        """
        self._going.clear()  # guard: STANDSTILL; mutation: old-stream-stands
        async with self._context.rw_lock.write(), self._watch.alone():
            pass  # what was under way has ended

    def resume(self) -> None:
        """Go on: the cutover was given up."""
        if self._holder is not None:
            self._read_through(None)
        self._going.set()

    def go_on_through(self, holder: Connection) -> None:
        """Go on after ``freeze``, and read the source on a connection that has locked its tables against everybody.

        :param holder: it gives text, and its transaction is open.
        """
        hold(holder)
        self._read_through(holder)
        self._going.set()

    def _read_through(self, holder: Connection | None) -> None:
        self._holder = holder
        self._verifier.read_through(holder)
