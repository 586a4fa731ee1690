"""The applier and the chunk writes of one pipeline exclude each other; chunk writes among themselves do not (I3)."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Exclusion:
    """Shared by many or held by one, in the order of asking: a busy applier cannot starve the backfill, nor it the
    applier."""

    def __init__(self) -> None:
        self._sharers = 0
        self._alone = False
        self._queue: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold it together with other sharers."""
        await self._enter(alone=False)
        try:
            yield
        finally:
            self._sharers -= 1
            self._admit()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Hold it alone."""
        await self._enter(alone=True)
        try:
            yield
        finally:
            self._alone = False
            self._admit()

    async def _enter(self, *, alone: bool) -> None:
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((alone, admitted))
        self._admit()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self._leave(alone=alone)
            self._admit()
            raise

    def _leave(self, *, alone: bool) -> None:
        if alone:
            self._alone = False
        else:
            self._sharers -= 1

    def _admit(self) -> None:
        """Let in whoever is first in the queue and may enter; those who have gone away are passed over."""
        while self._queue:
            alone, admitted = self._queue[0]
            if not admitted.cancelled():
                if self._alone or (alone and self._sharers):
                    return
                self._alone = alone
                self._sharers += not alone
                admitted.set_result(None)
            self._queue.popleft()
