"""The applier and the chunk writes of one pipeline exclude each other; chunk writes among themselves do not (I3).

A batch may take minutes. Once it is known which sources it concerns, chunks of the others are written meanwhile.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

_Waiting = tuple[str | None, "asyncio.Future[None]"]
"""For which source; None: to hold it alone."""


class Exclusion:
    """Shared by many or held by one, in the order of asking: a busy applier cannot starve the backfill, nor it the
    applier."""

    def __init__(self) -> None:
        self._sharers = Counter[str]()
        self._alone = False
        self._kept_out: frozenset[str] | None = None
        """While it is held alone: the sources whose sharers may not enter; None: no sharer may."""
        self._left = asyncio.Event()
        self._queue: deque[_Waiting] = deque()

    @asynccontextmanager
    async def shared(self, source: str = "") -> AsyncIterator[None]:
        """Hold it together with other sharers."""
        await self._enter(source)
        try:
            yield
        finally:
            self._leave(source)
            self._admit()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Hold it alone."""
        await self._enter(None)
        try:
            yield
        finally:
            self._leave(None)
            self._admit()

    async def narrow(self, sources: Collection[str]) -> None:
        """Keep only sharers of these sources out, and of those named since it was taken; for who holds it alone.

        To be called before anything is done that concerns them: waits until none of them is inside.
        """
        self._kept_out = frozenset(sources) | (self._kept_out or frozenset())
        self._admit()
        while any(self._sharers[source] for source in self._kept_out):
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
            self._alone, self._kept_out = False, None
        else:
            self._sharers[source] -= 1
            self._left.set()

    def _admit(self) -> None:
        """Let in whoever is first in the queue and may enter; those who have gone away are passed over.

        While it is held alone, whoever is not kept out passes the others by: these wait for the holder anyhow.
        """
        waiting: deque[_Waiting] = deque()
        while self._queue:
            source, admitted = self._queue.popleft()
            if admitted.cancelled():
                continue
            if waiting and not self._alone:  # somebody is before it
                waiting.append((source, admitted))
            elif self._may_enter(source):
                self._alone |= source is None
                self._sharers.update([source] if source is not None else [])
                admitted.set_result(None)
            else:
                waiting.append((source, admitted))
        self._queue = waiting

    def _may_enter(self, source: str | None) -> bool:
        if source is None:
            return not self._alone and not self._sharers.total()
        return not self._alone or (self._kept_out is not None and source not in self._kept_out)
