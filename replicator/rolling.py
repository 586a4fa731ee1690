"""While both schemas take writes: the two pipelines as one thing, and the two moves that lead into it and out of it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import uuid4

from replicator.cutover import Cutover, activation_marker
from replicator.errors import CheckError, NotReadyError
from replicator.migration import Direction
from replicator.pipeline import LONG_AGO, Pipeline
from replicator.postgres.connect import Connection, connection
from replicator.postgres.context import Rolling
from replicator.postgres.control import Owner
from replicator.postgres.origins import OwnOrigin, create_origin, drop_origin, lacking, origin_of, tracks_commits
from replicator.postgres.ownership import (
    clock,
    limit_lock,
    open_to_writers,
    rolling_since,
    set_sequences,
    write_ownership,
    write_settled,
)
from replicator.postgres.redo import clear_redo, read_redo, strike_redo
from replicator.postgres.versions import foreign_triggers, forget_deletions, note_deletions
from replicator.settings import Settings
from replicator.tables import Name
from replicator.verify import Divergence

SEQUENCE_MARGIN = 1_000_000
"""Both sides hand out numbers now: so many are left to the old one before it meets those of the new one."""
LOOK_SECONDS = 0.1
LOCK_SECONDS = 5.0
CLOCKS_APART = 0.5
"""Seconds. Who wrote last is told by two clocks, if there are two servers."""
OPPOSITE: Mapping[Direction, Direction] = {"forward": "reverse", "reverse": "forward"}


async def check_rolling(settings: Settings, tables: Mapping[Owner, list[Name]]) -> None:
    """Raise CheckError unless both servers can tell who wrote a row last, and let us mark what we write."""
    for side, dsn in (("old", settings.source), ("new", settings.target)):
        async with connection(dsn, "check") as asking:
            await _check_server(asking, side)
            found = await foreign_triggers(asking, tables["old"] if side == "old" else tables["new"])
        if found:
            raise CheckError(
                f"Triggers act on rows that are written from both sides: {', '.join(found)}.",
                "What they do for our writes would not reach the other schema: drop them, or do not cut over rolling.",
            )
    async with connection(settings.source, "check") as old, connection(settings.target, "check") as new:
        before = await clock(old)
        apart = ((await clock(new)) - before).total_seconds()
        slack = ((await clock(old)) - before).total_seconds()
    if not -CLOCKS_APART < apart < CLOCKS_APART + slack:
        raise CheckError(
            f"The clocks of the two servers are {abs(apart):.1f} seconds apart.", "Let NTP set both, then try again."
        )


async def _check_server(asking: Connection, side: str) -> None:
    if not await tracks_commits(asking):
        raise CheckError(
            f"track_commit_timestamp is off on the {side} schema's server: who wrote a row last cannot be told.",
            "ALTER SYSTEM SET track_commit_timestamp = on; and restart that server.",
        )
    missing, role = await lacking(asking)
    if missing:
        raise CheckError(
            f"The role {role} must not use replication origins on the {side} schema's server.",
            " ".join(f"GRANT EXECUTE ON FUNCTION {each} TO {role};" for each in missing),
        )


class BothWays:
    """Forward and reverse, side by side: each ignores what the other writes, and what collided is derived again."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pipelines: dict[Direction, Pipeline] = {}
        self._begun = 0
        """How often something was found that must be derived again."""
        self._turn = asyncio.Lock()
        self._origins: dict[Direction, OwnOrigin] = {}
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
        rolling = Rolling(
            origin=self._origins[direction],
            since=since,
            turn=self._turn,
            known_through=lambda: self._applied_through(opposite),
        )
        await pipeline.roll(rolling, self._origins[opposite])

    def _applied_through(self, direction: Direction) -> datetime:
        pipeline = self.pipelines.get(direction)
        return pipeline.applied_through if pipeline is not None else LONG_AGO

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
        for home in homes:
            entries = await read_redo(home, direction)
            due = [each for each in entries if each.after is None or each.after <= opposite.position]
            if len(due) < len(entries):
                await opposite.nudge()
            if due:
                self._begun += 1
                await self.pipelines[direction].catch_up()  # else an older change may come after what is derived now
                await self.pipelines[direction].rederive(due)
                await strike_redo(home, due)
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
        return any([await read_redo(home, direction, 1) for home in homes for direction in OPPOSITE])

    async def clear(self) -> None:
        """Forget all; no pipeline writes under an origin any more."""
        async with self._homes() as homes:
            for home in homes:
                await clear_redo(home)
                await forget_deletions(home)
                await write_settled(home)
        for direction in OPPOSITE:
            async with connection(self._target(direction), "origin") as target:
                await drop_origin(target, origin_of(self.settings.slot_of(direction)))

    # ---- the final check

    async def final_check(self, direction: Direction) -> list[Divergence]:
        """What diverges, with the writers of this direction's source held; what the other side wrote last, does not."""
        pipeline = self.pipelines[direction]
        found = await pipeline.verifier.final_check()
        return await pipeline.without_rows_of_the_application(found)


class Opening(Cutover):
    """Into it: the old writers are held for the moment in which the new tables are opened too."""

    def __init__(self, *arguments: Any, both: BothWays, opposite: Pipeline, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.both = both
        self.opposite = opposite

    async def _check(self, target: Connection) -> None:
        await super()._check(target)
        self._target = target
        if self.pipeline.context.rolling is None:
            await self.both.roll(self.pipeline, await clock(target))

    async def _move(self, holder: Connection, epoch: int, *, together: bool) -> None:
        self._step = "sequences"
        await set_sequences(self._target, self.plan.targets, SEQUENCE_MARGIN)
        self._step = "triggers"
        await note_deletions(holder, self.opposite.context.plan.targets)
        if together:
            await open_to_writers(holder, self.tables["new"])
        if self.opposite.context.rolling is not None:
            self.opposite.context.rolling.since = await clock(holder)
        self._step = "state row"
        marker = activation_marker(epoch) if together else None
        await write_ownership(holder, "old", epoch, marker, rolling=True)


class Ending(Cutover):
    """Out of it, either way: the writers of one side are held, and refused from then on."""

    def __init__(self, *arguments: Any, both: BothWays, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.both = both

    async def _diverging(self) -> list[Divergence]:
        return await self.both.final_check(self.pipeline.direction)

    async def _check(self, target: Connection) -> None:
        await super()._check(target)
        if any(each.context.quarantined for each in self.both.pipelines.values()):
            raise NotReadyError("A row went into quarantine; the writers went on.", "See `replicator status`.")


async def prepare_new_side(settings: Settings, forward: Pipeline) -> None:
    """Have what the application will delete in the new tables noted; nobody writes them but us."""
    async with connection(settings.target, "triggers") as target, target.transaction():
        await limit_lock(target, LOCK_SECONDS)
        await note_deletions(target, forward.context.plan.targets)
