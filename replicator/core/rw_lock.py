"""The applier and the chunk writes of one pipeline exclude each other; chunk writes among themselves do not (I3).

A batch may take minutes. Once it is known which sources it concerns, chunks of the others are written meanwhile.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

_Waiting = tuple[str | None, "asyncio.Future[None]"]
"""A reader of this source; None: the writer."""


class ReadWriteLock:
    """A fair read-write lock: chunk writes are its readers, the applier is its writer.

    Requests are granted in their order, so neither a busy applier nor the backfill can starve the other one.
    """

    def __init__(self) -> None:
        self._readers = Counter[str]()
        self._written = False
        self._kept_out: frozenset[str] | None = None
        """While it is held for writing: the sources whose readers may not enter; None: no reader may."""
        self._left = asyncio.Event()
        self._queue: deque[_Waiting] = deque()

    @asynccontextmanager
    async def read(self, source: str = "") -> AsyncIterator[None]:
        """Hold it together with other readers, for the writing of a chunk of this source."""
        await self._enter(source)
        try:
            yield
        finally:
            self._leave(source)
            self._admit()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[None]:
        """Hold it exclusively."""
        await self._enter(None)
        try:
            yield
        finally:
            self._leave(None)
            self._admit()

    async def narrow(self, sources: Collection[str]) -> None:
        """Let the readers of all other sources in. The caller holds the lock for writing.

        Calls add up: a source named once since the lock was taken stays excluded.

        To be called before anything is done that concerns these sources: waits until none of their readers is inside.
        """
        self._kept_out = frozenset(sources) | (self._kept_out or frozenset())
        self._admit()
        while any(self._readers[source] for source in self._kept_out):
            self._left.clear()
            await self._left.wait()

    async def _enter(self, source: str | None) -> None:
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((source, admitted))
        self._admit()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self._leave(source)
            self._admit()
            raise

    def _leave(self, source: str | None) -> None:
        if source is None:
            self._written, self._kept_out = False, None
        else:
            self._readers[source] -= 1
            self._left.set()

    def _admit(self) -> None:
        """Admit the first in the queue that may enter; requests that were cancelled are removed.

        While the lock is held for writing, readers that are not excluded overtake the others: these wait for the
        holder in any case.
        """
        waiting: deque[_Waiting] = deque()
        while self._queue:
            source, admitted = self._queue.popleft()
            if admitted.cancelled():
                continue
            if waiting and not self._written:  # somebody is before it
                waiting.append((source, admitted))
            elif self._may_enter(source):
                self._written |= source is None
                self._readers.update([source] if source is not None else [])
                admitted.set_result(None)
            else:
                waiting.append((source, admitted))
        self._queue = waiting

    def _may_enter(self, source: str | None) -> bool:
        if source is None:
            # A batch would be applied between a chunk's look at the dirty keys and its commit (I3).
            # mutation: writer-alone
            return not self._written and not self._readers.total()
        return not self._written or (self._kept_out is not None and source not in self._kept_out)
