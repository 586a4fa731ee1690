"""Plans the chunks of each source, and lets several workers copy them."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from replicator.backfill.copier import Copier
from replicator.errors import cause
from replicator.mapping.plan import Source
from replicator.postgres.control.progress import (
    Chunk,
    add_chunk,
    add_source,
    backfill_progress,
    chunks_to_do,
    last_chunk,
)
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.listing import estimate_rows, next_bound
from replicator.postgres.session.connect import Connection, connection
from replicator.runtime.failpoints import Failpoint, reach

PLANNED_AHEAD = 16
"""Chunks that are planned and not taken yet."""


class Backfill:
    """One pipeline's backfill. ``run`` returns when every chunk of every source is written."""

    def __init__(
        self,
        context: Context,
        on_rows: Callable[[str, int], None] = lambda _source, _rows: None,
        on_resumed: Callable[[str, int], None] = lambda _source, _rows: None,
    ) -> None:
        self.context = context
        self.sources = [
            each
            for each in context.plan.sources.values()
            # What was there before the slot is remembered too, or its deletion would delete nothing. guard: FILLING
            if not context.shadow or any(transform.remembers for transform in each.transforms)
        ]
        self._on_rows = on_rows
        self._on_resumed = on_resumed
        self._chunks: asyncio.Queue[Chunk | None] = asyncio.Queue(PLANNED_AHEAD)

    async def run(self) -> None:
        """Copy what is not copied yet. Raises ReplicatorError; all of it can be run again."""
        async with (
            connection(self.context.source_dsn, f"{self.context.direction} plan", text=True) as source,
            connection(self.context.target_dsn, f"{self.context.direction} chunks") as target,
        ):
            await self._add_sources(source, target)
            self.context.copying = True
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._plan(source, target), name="plan chunks")
                    for number in range(self.context.workers):
                        group.create_task(self._work(), name=f"copy {number}")
            except BaseExceptionGroup as several:  # a move waits for this, too, and asks whose error it is
                raise cause(several) from several
            finally:
                self.context.copying = False

    async def _add_sources(self, source: Connection, target: Connection) -> None:
        known = {each.source: each.rows for each in await backfill_progress(target, self.context.direction)}
        for each in self.sources:
            self._on_resumed(each.name, known.get(each.name, 0))
            if each.name not in known:
                await add_source(target, self.context.direction, each.name, await estimate_rows(source, each))

    async def _plan(self, source: Connection, target: Connection) -> None:
        progress = {each.source: each for each in await backfill_progress(target, self.context.direction)}
        planned = [
            self._planned(source, target, each, done=progress[each.name].planned) for each in self.sources
        ]  # fmt: skip
        if self._refer_to_each_other():
            for chunks in planned:
                async for chunk in chunks:
                    await self._chunks.put(chunk)
        while planned:  # in turn, so that one source that is large, or slow, keeps none of the others waiting
            for chunks in list(planned):
                next_chunk = await anext(chunks, None)
                if next_chunk is None:
                    planned.remove(chunks)
                else:
                    await self._chunks.put(next_chunk)
        for _ in range(self.context.workers):
            await self._chunks.put(None)

    def _refer_to_each_other(self) -> bool:
        """Where there are foreign keys already, the order of the migration is kept: parents may come first in it."""
        return any(table.foreign_keys for table in self.context.plan.targets)

    async def _planned(
        self, source: Connection, target: Connection, each: Source, *, done: bool
    ) -> AsyncGenerator[Chunk]:
        """The chunks of a source that are left to do; those that are planned now are stored before they are given."""
        for chunk in await chunks_to_do(target, self.context.direction, each.name):
            yield chunk
        if done:
            return
        last = await last_chunk(target, self.context.direction, each.name)
        lower, ordinal = (last.upper, last.ordinal + 1) if last else (None, 0)
        while True:
            upper = await next_bound(source, each, lower, self.context.chunk_rows)
            chunk = Chunk(source=each.name, ordinal=ordinal, lower=lower, upper=upper)
            await add_chunk(target, self.context.direction, chunk, last=upper is None)
            await reach(Failpoint.CHUNK_PLANNED)
            yield chunk
            if upper is None:
                return
            lower, ordinal = upper, ordinal + 1

    async def _work(self) -> None:
        copier = Copier(self.context)
        try:
            await copier.open()
            while (chunk := await self._chunks.get()) is not None:
                rows = await copier.copy(chunk)
                self._on_rows(chunk.source, rows)
        finally:
            await copier.close()
