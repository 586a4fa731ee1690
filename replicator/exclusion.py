"""The applier and the chunk writes of one pipeline exclude each other; chunk writes among themselves do not (I3)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Exclusion:
    """Shared by many or held by one; who waits for it alone goes before later sharers."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()
        self._sharers = 0
        self._alone = False
        self._waiting = 0

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold it together with other sharers."""
        async with self._condition:
            await self._condition.wait_for(lambda: not self._alone and not self._waiting)
            self._sharers += 1
        try:
            yield
        finally:
            async with self._condition:
                self._sharers -= 1
                self._condition.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Hold it alone."""
        async with self._condition:
            self._waiting += 1
            try:
                await self._condition.wait_for(lambda: not self._alone and not self._sharers)
                self._alone = True
            finally:
                self._waiting -= 1
                self._condition.notify_all()
        try:
            yield
        finally:
            async with self._condition:
                self._alone = False
                self._condition.notify_all()
