"""The engine's tasks made to pause at known points, so that a test decides what happens between any two of them."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import ModuleType
from typing import Any

from replicator.backfill import backfill as backfill_module
from replicator.backfill.copier import Copier
from replicator.core.lsn import LSN
from replicator.core.rw_lock import ReadWriteLock
from replicator.core.tables import Key, Row
from replicator.follow.transaction_buffer import Batch, TransactionBuffer
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.control.progress import Chunk
from replicator.postgres.rows.source import next_bound
from replicator.postgres.session.connect import Connection
from replicator.postgres.wire.replication import Frame, Keepalive, ReplicationStream
from replicator.postgres.wire.snapshots import Visibility, read_point
from tests.leftovers import patched
from tests.waiting import until

SECONDS = 30.0
"""The longest that a task may take from one point to the next."""

APPLY, PLAN = "forward apply", "plan chunks"
COPIERS = ("copy 0", "copy 1")
ACTORS = (APPLY, PLAN, *COPIERS)
"""The tasks that are stepped, by name."""


class Stepper:
    """Each actor runs until its next point, and there waits for its turn; once ``free``, all run as they like."""

    def __init__(self) -> None:
        self.free = False
        self.hidden: set[int] = set()
        """The transactions that are in the log and not visible yet, on purpose."""
        self.locked: Callable[[], bool] = lambda: False
        """Whether the application keeps the engine from reading some table."""
        self.failed: Callable[[], None] = lambda: None
        """Raises what has ended the engine, if anything has."""
        self._paused: dict[str, tuple[str, asyncio.Future[None]]] = {}
        self._waiting: dict[str, list[tuple[str, Callable[[], bool]]]] = {}
        self._deliver = asyncio.Event()
        self._doing: dict[str, str] = {}

    def at(self, actor: str) -> str | None:
        """The point where an actor pauses; None when it is gone, or waits for another."""
        return self._paused[actor][0] if actor in self._paused else None

    def stuck(self, actor: str) -> str | None:
        """What an actor waits for that only another can bring; None when it can move."""
        return next((what for what, still in self._waiting.get(actor, []) if still()), None)

    async def advance(self, actor: str) -> None:
        """Let an actor run to its next point, or until only another can help it on; one that is gone stays so."""
        await self.settle()
        if actor in self._paused:
            self._paused.pop(actor)[1].set_result(None)
        await self.settle()

    async def begin(self, *actors: str) -> None:
        """Wait until these actors are there, each at its first point."""
        await until(lambda: all(actor in self._paused for actor in actors), alive=self.failed, every=0.001)

    async def settle(self) -> None:
        """Wait until no actor can move by itself. Raises what has ended the engine."""
        still = 0
        async with asyncio.timeout(SECONDS):
            while still < 3:  # who has just been let in by another shows that only at its turn
                await asyncio.sleep(0 if still else 0.001)
                self.failed()
                alive = {task.get_name() for task in asyncio.all_tasks()}
                still = 0 if any(self._moves(actor) for actor in ACTORS if actor in alive) else still + 1

    def _moves(self, actor: str) -> bool:
        return actor not in self._paused and self.stuck(actor) is None

    def release(self) -> None:
        """From here on nobody pauses."""
        self.free = True
        self._deliver.set()
        for _, turn in self._paused.values():
            if not turn.done():
                turn.set_result(None)
        self._paused.clear()

    def hold(self) -> None:
        """From here on everybody pauses again."""
        self.free = False
        self._deliver.clear()

    async def deliver(self, inbox: TransactionBuffer, position: LSN) -> None:
        """Let the stream come up to a position."""
        self._deliver.set()
        await until(lambda: inbox.received > position, alive=self.failed, every=0.001)
        if not self.free:
            self._deliver.clear()

    # ---- called by the engine's tasks

    async def pause(self, point: str) -> None:
        """A point: wait for one's turn."""
        actor = _me()
        point = f"{point} {self._doing.get(actor, '')}".rstrip()
        if self.free or actor not in ACTORS:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._paused[actor] = (point, turn)
        try:
            await turn
        finally:
            if self._paused.get(actor, ("", None))[1] is turn:
                del self._paused[actor]

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """What an actor is at: added to the names of its points."""
        self._doing[_me()] = what
        try:
            yield
        finally:
            self._doing.pop(_me(), None)

    @contextmanager
    def waiting(self, what: str, still: Callable[[], bool]) -> Iterator[None]:
        """A place where an actor may have to wait for another; ``still`` says whether it has to."""
        places = self._waiting.setdefault(_me(), [])
        places.append((what, still))
        try:
            yield
        finally:
            places.pop()

    async def pass_frames(self) -> None:
        """A point of the stream's reader."""
        await self._deliver.wait()


def _me() -> str:
    task = asyncio.current_task()
    return task.get_name() if task else ""


# ---- the points


def attach(pipeline: Pipeline, stepper: Stepper) -> None:
    """Give a pipeline that is not at work yet its points."""
    pipeline.context.rw_lock = _Exclusion(stepper)
    inbox, applier = pipeline._inbox, pipeline._applier
    take, commit = inbox.take, applier._commit

    async def stepped_take(rows: int) -> Batch:
        await stepper.pause("take")
        with stepper.waiting("changes", lambda: not inbox._ready(rows)):
            return await take(rows)

    async def stepped_commit(*arguments: Any, **named: Any) -> Any:
        await stepper.pause("commit")
        outcome = await commit(*arguments, **named)
        await stepper.pause("confirm")
        return outcome

    setattr(inbox, "take", stepped_take)  # noqa: B010  # the type checker would mind
    setattr(applier, "_commit", stepped_commit)  # noqa: B010


Part = tuple[LSN, list[tuple[Key, Row]], bool]
"""Of a chunk: as of when, its rows, whether it is the last."""


@contextlib.contextmanager
def points(stepper: Stepper) -> Iterator[None]:
    """Give the engine's classes their points."""

    class SteppedCopier(Copier):
        async def _parts(self, chunk: Chunk) -> AsyncGenerator[Part]:
            with stepper.doing(chunk.source):
                await stepper.pause("open")
            async with contextlib.aclosing(super()._parts(chunk)) as parts:
                async for part in _each(parts, stepper, chunk.source):
                    yield part

        async def _write(self, chunk: Chunk, *arguments: Any, **named: Any) -> None:
            with stepper.doing(chunk.source):
                await stepper.pause("write")
                await super()._write(chunk, *arguments, **named)
                await stepper.pause("written")

    class SteppedQueue(asyncio.Queue[Chunk | None]):
        async def get(self) -> Chunk | None:
            await stepper.pause("chunk")
            with stepper.waiting("chunk", self.empty):
                return await super().get()

        async def put(self, item: Chunk | None) -> None:
            with stepper.waiting("room", self.full):
                await super().put(item)

    @asynccontextmanager
    async def stepped_read_point(connection: Connection, visibility: Visibility) -> AsyncIterator[LSN]:
        async with contextlib.AsyncExitStack() as stack:
            with stepper.waiting("sight", lambda: bool(stepper.hidden & visibility._delivered)):
                lsn = await stack.enter_async_context(read_point(connection, visibility))
            await stepper.pause("snapshot")
            with stepper.waiting("lock", stepper.locked):
                yield lsn

    async def stepped_next_bound(*arguments: Any) -> Key | None:
        await stepper.pause("bound")
        with stepper.waiting("lock", stepper.locked):
            return await next_bound(*arguments)

    frames = ReplicationStream.frames

    async def stepped_frames(stream: ReplicationStream) -> AsyncIterator[list[Frame]]:
        async for each in frames(stream):
            await stepper.pass_frames()
            # A keepalive comes when it likes; none is needed while all steps are the test's.
            yield each if stepper.free else [one for one in each if not isinstance(one, Keepalive)]

    init = backfill_module.Backfill.__init__

    def stepped_init(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        self._chunks = SteppedQueue(backfill_module.PLANNED_AHEAD)

    with contextlib.ExitStack() as stack:
        for where, name, instead in (
            (backfill_module, "Copier", SteppedCopier),
            (backfill_module, "next_bound", stepped_next_bound),
            (backfill_module.Backfill, "__init__", stepped_init),
            *((module, "read_point", stepped_read_point) for module in _readers()),
            (ReplicationStream, "frames", stepped_frames),
        ):
            stack.enter_context(patched(where, name, instead))
        yield


async def _each(parts: AsyncGenerator[Part], stepper: Stepper, source: str) -> AsyncIterator[Part]:
    """The parts of a chunk; each, once it is read, is a point."""
    while True:
        with stepper.doing(source):
            part = await anext(parts, None)
            if part is None:
                return
            await stepper.pause("read")
        yield part


class _Exclusion(ReadWriteLock):
    def __init__(self, stepper: Stepper) -> None:
        super().__init__()
        self._stepper = stepper

    async def _enter(self, source: str | None) -> None:
        with self._stepper.waiting("exclusion", lambda: any(not admitted.done() for _, admitted in self._queue)):
            await super()._enter(source)


def _readers() -> list[ModuleType]:
    """The modules of backfill and applier that read at a point."""
    return [
        module
        for name, module in sys.modules.items()
        if name.startswith(("replicator.backfill", "replicator.apply"))
        and getattr(module, "read_point", None) is read_point
    ]
