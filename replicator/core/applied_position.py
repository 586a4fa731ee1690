"""How far a pipeline has come, and waiting for it to come further."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from replicator.core.lsn import LSN

MOST_MESSAGES: Final = 1_000
"""Passed messages that are remembered, in case somebody comes to wait for them."""


class AppliedPosition:
    """A position that only grows, and the messages of ours that were passed on the way."""

    def __init__(self, position: LSN) -> None:
        self.position = position
        """Everything up to here is applied."""
        self.committed_at: datetime | None = None
        """When, by the source's clock, the last transaction was committed that is applied; None before the first."""
        self._messages: dict[str, None] = {}
        self._moved = asyncio.Condition()

    async def advance(self, position: LSN, messages: Iterable[str] = (), committed_at: datetime | None = None) -> None:
        """Say that all up to a position is applied, and these messages with it."""
        async with self._moved:
            self.position = max(self.position, position)
            self.committed_at = committed_at or self.committed_at
            self._messages.update(dict.fromkeys(messages))
            while len(self._messages) > MOST_MESSAGES:  # what nobody has waited for would stay for ever
                del self._messages[next(iter(self._messages))]
            self._moved.notify_all()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is looked at whenever the position has been told."""
        async with self._moved:
            await self._moved.wait_for(condition)

    async def wait_position(self, position: LSN) -> None:
        """Wait until everything up to a position is applied."""
        await self.wait_until(lambda: self.position >= position)

    async def wait_message(self, message: str) -> None:
        """Wait until a message has been passed, once."""
        await self.wait_until(lambda: message in self._messages)
        self._messages.pop(message, None)
