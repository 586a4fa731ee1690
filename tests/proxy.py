"""A TCP proxy between the daemon and a server, in a thread of its own, that can cut, stall, delay and dribble."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

PIECE = 1 << 16
STATE_ROW = b"UPDATE _replicator.ownership"
COMMIT = b"COMMIT"


class Proxy:
    """``with Proxy(port) as proxy``: what connects to ``proxy.port`` talks to ``port`` of this machine."""

    def __init__(self, port: int, seed: int = 0) -> None:
        self.port = 0
        self.delay = 0.0
        """The longest that a piece is held back, in seconds."""
        self.dribble = 0
        """The most bytes that are passed on at a time; 0 for all."""
        self.replies_lost = 0
        """Commits of a cutover whose reply did not get through."""
        self.lose_replies = 0
        """How many of the coming ones are not to get through."""
        self._server_port = port
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._flowing = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def cut(self) -> None:
        """Cut all connections, in the middle of whatever they carry."""
        self._loop.call_soon_threadsafe(self._cut)

    def stall(self) -> None:
        """Pass nothing on, until ``flow``."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self) -> None:
        """Go on with what was stalled."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._flowing.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        self._flowing.set()
        self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, back}
        self._writers |= pair
        watch = _Watch(self)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, back, watch.seen))
                group.create_task(self._pass(there, writer, watch.allows))
        except* (OSError, _CutError):
            pass
        finally:
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], bool]
    ) -> None:
        while data := await reader.read(PIECE):
            await self._flowing.wait()
            if not look(data):
                raise _CutError
            if self.delay:
                await asyncio.sleep(self._chance.uniform(0, self.delay))
            while data and self.dribble:
                piece = self._chance.randint(1, self.dribble)
                writer.write(data[:piece])
                data = data[piece:]
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(data)
            await writer.drain()
        raise _CutError


class _CutError(Exception):
    """One side has gone, or is to go: the other goes too."""


class _Watch:
    """Finds the commit of a cutover's transaction, and keeps the reply to it from its sender."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._moves = False
        self._committing = False

    def seen(self, data: bytes) -> bool:
        """Look at what the daemon says; it is always passed on."""
        self._moves = self._moves or STATE_ROW in data
        self._committing = self._committing or (self._moves and COMMIT in data)
        return True

    def allows(self, _data: bytes) -> bool:
        """Whether what the server says is passed on."""
        if self._committing and self._proxy.lose_replies:
            self._proxy.lose_replies -= 1
            self._proxy.replies_lost += 1
            return False
        self._moves = self._moves and not self._committing
        self._committing = False
        return True
