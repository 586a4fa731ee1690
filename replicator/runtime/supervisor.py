"""Named tasks: the death of any of them ends the daemon."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from replicator.errors import cause
from replicator.runtime.log import get_logger

log = get_logger("supervisor")

PATIENCE_SECONDS = 15.0
"""How long a task that is cancelled may take to clean up."""


class Supervisor:
    """Starts tasks by name, and stops them; ``wait`` raises what the first of them raised."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._stopping = False

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start a task, unless all are being stopped; one of the same name must have ended."""
        if self._stopping:  # a move that is cancelled sets things going again; nobody would end them
            work.close()
            return
        if self.running(name):
            work.close()
            raise RuntimeError(f"{name} is running already")
        if (before := self._tasks.pop(name, None)) is not None:  # ``wait`` has yet to see how it ended
            self._tasks[f"{name}, before"] = before
        self._tasks[name] = asyncio.create_task(work, name=name)
        self._changed.set()

    def running(self, name: str) -> bool:
        """Whether a task of this name is at work."""
        task = self._tasks.get(name)
        return task is not None and not task.done()

    async def stop(self, name: str) -> None:
        """Cancel a task, and wait for its end."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def stop_all(self) -> None:
        """Cancel all tasks, and wait for their end. None can be started any more."""
        self._stopping = True
        left = set(self._tasks.values())
        while left:  # one that cleans up may hang in that: a server need not answer, and the next daemon does it
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=PATIENCE_SECONDS)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    async def wait(self, *, ending: str) -> None:
        """Wait until the task ``ending`` has ended; raise what any task raises before."""
        while True:
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait([*self._tasks.values(), changed], return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            for name, task in list(self._tasks.items()):
                if task.done():
                    del self._tasks[name]
                    if not task.cancelled() and (error := task.exception()) is not None:
                        raise cause(error) from error
                    if name == ending:
                        return
