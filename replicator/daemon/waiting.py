"""Looks on from outside, for as long as the daemon runs: which of its sessions wait, and for whom."""

import asyncio
from contextlib import AsyncExitStack
from typing import Final

from replicator.errors import ReplicatorError
from replicator.postgres.locking.blockers import Wait, our_waits
from replicator.postgres.session.connect import connection
from replicator.runtime.log import get_logger
from replicator.settings import Settings

log = get_logger("waiting")

LOOK_SECONDS: Final = 1.0
LEAST_SECONDS: Final = 3.0
"""A shorter wait is nothing to be told of."""
HUNG_SECONDS: Final = 10.0
"""From then on a write that waits is trouble."""


class Waiting:
    """What waits now; the log is told of each wait once, whatever the daemon is at: it may be its start."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.found: list[Wait] = []

    @property
    def trouble(self) -> str | None:
        """Why nothing is written, if a write has waited for long."""
        for wait in self.found:
            if wait.seconds >= HUNG_SECONDS and (wait.standby or wait.purpose.endswith(" apply")):
                return f"{wait}."
        return None

    async def run(self) -> None:
        """Never returns; a database that cannot be reached is tried again: that is told by others."""
        while True:
            try:
                await self._look_on()
            except ReplicatorError:
                self.found = []
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_on(self) -> None:
        told: set[tuple[str, str]] = set()
        async with AsyncExitStack() as stack:
            looking = [
                await stack.enter_async_context(connection(dsn, "waits"))
                for dsn in dict.fromkeys((self._settings.source, self._settings.target))
            ]
            while True:
                self.found = [wait for each in looking for wait in await our_waits(each, LEAST_SECONDS)]
                waits = {(wait.purpose, who): wait for wait in self.found for who in wait.who}
                for pair in waits.keys() - told:
                    log.warning("waiting", session=pair[0], in_the_way=waits[pair].in_the_way)
                told = set(waits)
                await asyncio.sleep(LOOK_SECONDS)
