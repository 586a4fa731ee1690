"""How far a request is: its step, and who is in the way of it, told to whoever has asked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from replicator.errors import ReplicatorError
from replicator.postgres.control import mailbox
from replicator.postgres.control.mailbox import Command
from replicator.postgres.locking.blockers import our_waits
from replicator.postgres.session.connect import Connection, connection
from replicator.settings import Settings
from replicator.switchover.gates import Gate

LOOK_SECONDS = 0.5
"""How often it is asked who is in the way, and from when on."""


class Progress:
    """One request's; ``in_the_way`` names the sessions and prepared transactions that the daemon waits for."""

    def __init__(self, settings: Settings, command: Command, own: Connection) -> None:
        self.step = ""
        self.shut: list[str] = []
        """The gates that are not open, while these are waited for."""
        self.in_the_way: list[str] = []
        self._settings = settings
        self._command = command
        self._own = own
        self._gates: list[dict[str, object]] = []

    async def report(self, step: str) -> None:
        """Tell the step."""
        self.step, self.shut, self._gates = step, [], []
        await self._write()

    async def report_gates(self, gates: Sequence[Gate], step: str) -> None:
        """Tell how the gates are."""
        self.step = step
        self.shut = [each.name for each in gates if not each.ok]
        self._gates = [{"name": each.name, "ok": each.ok, "detail": each.detail} for each in gates]
        await self._write()

    def __str__(self) -> str:
        """The step, and who is in the way, in one sentence's words."""
        names = "; ".join(self.in_the_way)
        return f"{self.step}; in the way: {names}" if names else self.step

    @asynccontextmanager
    async def watched(self, bound: asyncio.Timeout) -> AsyncIterator[None]:
        """Look again and again who is in the way, meanwhile; until ``bound`` has run out."""
        task = asyncio.create_task(self._look_on(bound))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _look_on(self, bound: asyncio.Timeout) -> None:
        with suppress(ReplicatorError):  # a lost connection ends the request anyhow, or is of no matter to it
            async with AsyncExitStack() as stack:
                looking = [
                    await stack.enter_async_context(connection(dsn, "waits"))
                    for dsn in dict.fromkeys((self._settings.source, self._settings.target))
                ]
                while True:
                    await asyncio.sleep(LOOK_SECONDS)
                    waits = [wait for each in looking for wait in await our_waits(each, LOOK_SECONDS)]
                    found = list(dict.fromkeys(name for wait in waits for name in wait.in_the_way))
                    if bound.expired():  # what was in the way then is to be told, not who is in that of the clean-up
                        return
                    if found != self.in_the_way:
                        self.in_the_way = found
                        await self._write()

    async def _write(self) -> None:
        told: dict[str, object] = {"step": self.step}
        if self.in_the_way:
            told["in_the_way"] = self.in_the_way
        if self._gates:
            told["gates"] = self._gates
        await mailbox.report_progress(self._own, self._command.id, told)
