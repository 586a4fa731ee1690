"""While both schemas take writes: the two pipelines as one thing, and what is derived again because it collided."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from uuid import uuid4

from replicator.apply.authorship import foreign_rows
from replicator.apply.outcome import NewerReadError
from replicator.apply.target_rows import delete_leftovers
from replicator.core.tables import Key
from replicator.errors import RetryableError
from replicator.migration import Direction
from replicator.pipeline.pipeline import Pipeline
from replicator.pipeline.source_monitor import LONG_AGO
from replicator.postgres.control.ownership import clock, rolling_since, write_settled
from replicator.postgres.control.rederivations import (
    Rederivation,
    clear_rederivations,
    read_rederivations,
    strike_rederivations,
)
from replicator.postgres.rows.conflict_policy import LastWriteWins
from replicator.postgres.rows.versions import forget_deletions
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.wire.origins import OwnOrigin, create_origin, drop_origin, origin_of
from replicator.settings import Settings
from replicator.verify import Divergence

LOOK_SECONDS = 0.1
WHY_KEPT = "changed past the log"
TRIES = 5
"""How often to derive again what the application is in the way of."""
OPPOSITE: Mapping[Direction, Direction] = {"forward": "reverse", "reverse": "forward"}


class Bidirectional:
    """Forward and reverse, side by side: each ignores what the other writes, and what collided is derived again."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pipelines: dict[Direction, Pipeline] = {}
        self._begun = 0
        """How often something was found that must be derived again."""
        self._turn = asyncio.Lock()
        self._origins: dict[Direction, OwnOrigin] = {}
        self.leftovers: dict[Direction, dict[str, set[Key]]] = {}
        """By target, rows that nothing gives any more, and that have been compared: they are to go."""
        self._ending = False
        self._ended = asyncio.Event()

    async def prepare(self) -> None:
        """Create the origins that the two write under."""
        for direction in OPPOSITE:
            async with connection(self._target(direction), "origin") as target:
                self._origins[direction] = await create_origin(target, origin_of(self.settings.slot_of(direction)))

    async def roll(self, pipeline: Pipeline, since: datetime | None = None) -> None:
        """Let a pipeline write under its origin.

        :param since: when the application began to write on its target, by the target's clock; stored, if not given.
        """
        direction, opposite = pipeline.direction, OPPOSITE[pipeline.direction]
        self.pipelines[direction] = pipeline
        if since is None:
            async with connection(self._target(direction), "origin") as target:
                since = await rolling_since(target) or await clock(target)
        policy = LastWriteWins(
            origin=self._origins[direction],
            since=since,
            turns=self._turn,
            known_through=lambda: self._applied_through(opposite),
        )
        await pipeline.roll(policy, self._origins[opposite])

    def _applied_through(self, direction: Direction) -> datetime:
        pipeline = self.pipelines.get(direction)
        return pipeline.monitor.applied_through if pipeline is not None else LONG_AGO

    def _target(self, direction: Direction) -> str:
        return self.settings.target if direction == "forward" else self.settings.source

    # ---- what collided

    async def run(self) -> None:
        """Derive again what collided, until ``end``."""
        try:
            async with asyncio.TaskGroup() as group:
                for direction in OPPOSITE:
                    group.create_task(self._derive_again(direction), name=f"{direction} rederive")
        finally:
            self._ended.set()

    async def end(self) -> None:
        """End ``run``, with nothing left half-done."""
        self._ending = True
        await self._ended.wait()

    async def _derive_again(self, direction: Direction) -> None:
        async with self._homes() as homes:
            while not self._ending:
                if not await self._some(direction, homes):
                    await asyncio.sleep(LOOK_SECONDS)

    async def _some(self, direction: Direction, homes: list[Connection]) -> bool:
        opposite, done = self.pipelines[OPPOSITE[direction]], False
        if self.pipelines[direction].context.shadow:
            return False
        if leftovers := self.leftovers.pop(direction, None):
            async with self.pipelines[direction].writing() as work:
                for target, keys in leftovers.items():
                    await delete_leftovers(work, target, keys, WHY_KEPT)
        for home in homes:
            entries = await read_rederivations(home, direction)
            due = [each for each in entries if each.after is None or each.after <= opposite.position]
            if len(due) < len(entries):
                await opposite.nudge()
            if due:
                self._begun += 1
                await self.pipelines[direction].catch_up()  # else an older change may come after what is derived now
                await _rederive(self.pipelines[direction], due)
                await strike_rederivations(home, due)
                done = True
        return done

    @asynccontextmanager
    async def _homes(self) -> AsyncIterator[list[Connection]]:
        """A connection to each database."""
        async with AsyncExitStack() as stack:
            dsns = dict.fromkeys((self.settings.source, self.settings.target))
            yield [await stack.enter_async_context(connection(dsn, "rederive")) for dsn in dsns]

    # ---- the end

    async def settle(self) -> None:
        """After the writers of one side are refused: wait until all that collided is decided."""
        async with self._homes() as homes:
            while True:
                begun = self._begun
                for direction in OPPOSITE:
                    marker = f"settled {uuid4()}"
                    await self.pipelines[direction].nudge(marker)
                    await self.pipelines[direction].wait_message(marker)
                # Twice: what is struck in one place while we look there may have left something in another.
                if not await self._left(homes) and not await self._left(homes) and self._begun == begun:
                    return
                await asyncio.sleep(LOOK_SECONDS)

    async def _left(self, homes: list[Connection]) -> bool:
        return any([await read_rederivations(home, direction, 1) for home in homes for direction in OPPOSITE])

    async def clear(self) -> None:
        """Forget all; no pipeline writes under an origin any more."""
        async with self._homes() as homes:
            for home in homes:
                await clear_rederivations(home)
                await forget_deletions(home)
                await write_settled(home)
        for direction in OPPOSITE:
            async with connection(self._target(direction), "origin") as target:
                await drop_origin(target, origin_of(self.settings.slot_of(direction)))

    # ---- the final check

    async def final_check(self, direction: Direction) -> list[Divergence]:
        """What diverges, with the writers of this direction's source held; what the other side wrote last, does not."""
        pipeline = self.pipelines[direction]
        return await self.not_theirs(pipeline, await pipeline.verifier.final_check())

    async def not_theirs(self, pipeline: Pipeline, found: list[Divergence]) -> list[Divergence]:
        """What of this is not what the application has written last on the pipeline's target."""
        if not found:
            return found
        async with connection(self._target(pipeline.direction), "final check") as target:
            theirs = await foreign_rows(target, pipeline.context, {(each.target, each.key) for each in found})
        return [each for each in found if (each.target, each.key) not in theirs]


async def _rederive(pipeline: Pipeline, entries: list[Rederivation]) -> None:
    """Derive again what is noted, in one transaction. It may be done twice."""
    for tries_left in reversed(range(TRIES)):
        try:
            async with pipeline.writing() as work:
                await work.rederive(entries, pipeline.position if tries_left else None)
        except NewerReadError as clash:
            await pipeline.wait_applied(clash.lsn)
        except RetryableError:
            if not tries_left:
                raise
        else:
            return
