"""A pipeline's connections beside the stream: it moves the log on, and watches slot, lag, tables and the ground."""

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import cast

from replicator.core.applied_position import AppliedPosition
from replicator.core.lag import LagMeter
from replicator.core.lsn import LSN
from replicator.errors import DefinitionError
from replicator.follow.decoder import MESSAGE_PREFIX
from replicator.follow.transaction_buffer import HEARTBEAT
from replicator.mapping.forgotten import REMEDIES
from replicator.pipeline.query_definitions import QueryDefinitions
from replicator.pipeline.source_definitions import Definitions
from replicator.pipeline.target_definitions import TargetDefinitions
from replicator.postgres.catalog.catalog_version import Generations, Reading
from replicator.postgres.control.control import unreplicated
from replicator.postgres.control.progress import Progress
from replicator.postgres.ddl.statements import shortened
from replicator.postgres.guarding.guards import awake_on_both_sides
from replicator.postgres.rows.context import Context
from replicator.postgres.session.connect import Connection, connect
from replicator.postgres.session.held import alone_on
from replicator.postgres.session.messages import emit_message
from replicator.postgres.session.server import Plugin
from replicator.postgres.wire.replication import identify_system
from replicator.postgres.wire.slots import (
    check_slot,
    clock_and_position,
    current_position,
    read_message_prefix,
    read_slot,
)
from replicator.postgres.wire.snapshots import look
from replicator.preflight.facts import Consequence, Wrong
from replicator.preflight.ground import Ground
from replicator.runtime.log import get_logger
from replicator.settings import Settings

log = get_logger("watch")

LONG_AGO = datetime.min.replace(tzinfo=UTC)
LONGEST = 500
"""Characters of what is logged about one fact: it may be about thousands of tables."""
CLOCK_MARGIN = timedelta(seconds=2)
"""A transaction takes its commit time a moment before it stands in the log."""


def low_lag(settings: Settings) -> float:
    """The lag in seconds at which a cutover may begin: writers wait for it, and for no longer than they may."""
    return settings.max_write_pause / 2


class SourceMonitor:
    """Opened once; what it does not find itself connected for, it leaves out."""

    def __init__(
        self, context: Context, progress: Progress, publication: str, reached: AppliedPosition, low_lag: float
    ) -> None:
        self._context = context
        self._progress = progress
        self._reached = reached
        self._low_lag = low_lag
        self.definitions = Definitions(context, progress.plugin, publication)
        self._targets = TargetDefinitions(context)
        self._queries = QueryDefinitions(context)
        self.wrong: list[Wrong] = []
        """The facts of the ground that were wrong at the last look, and keep ownership from moving."""
        self._ground = Ground(context.plan.migration, context.direction, cast("Plugin", progress.plugin), publication)
        self.lag = LagMeter()
        if progress.stored_ago is not None:
            self.lag.resume(progress.stored_ago)
        self.retained_bytes = 0
        self.applied_through = LONG_AGO
        """What was committed on the source up to then, by its clock, is applied: known once a second."""
        self._clocks: deque[tuple[datetime, LSN]] = deque(maxlen=3_600)
        self._lock = asyncio.Lock()
        self._source: Connection | None = None
        # A look may take long on a large catalogue, and no message down the log may wait for it.
        self._looking = asyncio.Lock()
        self._ground_source: Connection | None = None
        self._ground_target: Connection | None = None
        self._generations = Generations()

    async def open(self) -> None:
        """Connect, and look. Raises SlotError when the slot does not go on where the progress ends; DefinitionError."""
        self._source = await connect(self._context.source_dsn, f"{self._context.direction} control")
        await unreplicated(self._source)  # it sends messages that nobody needs after a failover
        identity = await identify_system(self._context.source_dsn)
        slot = await read_slot(self._source, self._progress.slot)
        check_slot(slot, self._progress, identity.system_id, identity.timeline)
        self._ground_source = await connect(self._context.source_dsn, f"{self._context.direction} ground")
        self._ground_target = await connect(self._context.target_dsn, f"{self._context.direction} ground")
        await self.definitions.open(self._ground_source)
        await self._queries.look(self._ground_source)
        await self.look_at_ground()

    async def close(self) -> None:
        """Give the connections back."""
        for each in (self._source, self._ground_source, self._ground_target):
            if each is not None:
                await each.close()

    async def nudge(self, message: str = HEARTBEAT) -> None:
        """Send a message down the log, so that the stream moves."""
        async with self._lock:
            if self._source is not None:
                await emit_message(self._source, message)

    async def message_prefix(self) -> str:
        """What our messages in the source's log begin with."""
        async with self._lock:
            return MESSAGE_PREFIX if self._source is None else await read_message_prefix(self._source)

    async def position(self) -> LSN:
        """The end of the source's log, as it is now."""
        async with self._lock:
            return self._reached.position if self._source is None else await current_position(self._source)

    async def changed(self) -> Reading | None:
        """Whether a look is due: something that looks read has changed since the last one was settled.

        Only for the looks that come by themselves. Before a start, and under the cutover's lock, every fact is read.
        """
        async with self._looking:
            source, target = self._ground_source, self._ground_target
            if source is None or target is None:
                return None
            one = self._context.source_dsn == self._context.target_dsn
            inputs = (self._context.plan, self._context.policy)
            return await self._generations.changed([source] if one else [source, target], inputs)

    def settle(self, reading: Reading) -> None:
        """All looks have been made since this reading."""
        self._generations.settle(reading)

    def alone(self) -> asyncio.Lock:
        """Held while no table is looked at."""
        return self._looking

    async def look_at_definitions(self, through: Connection | None = None) -> bool:
        """Whether source rows may have changed past the log since the last look. Raises DefinitionError.

        The target's tables are looked at too; what has changed there is compared again.

        :param through: a connection whose transaction keeps all others from the tables of both sides, if there is one.
        """
        async with self._looking:
            source, target = through or self._ground_source, through or self._ground_target
            if source is None or target is None:
                return False
            async with alone_on(source):
                await self._targets.look(target)
                await self._queries.look(source)
                return await self.definitions.look(source)

    async def look_at_ground(self, source: Connection | None = None, target: Connection | None = None) -> list[Wrong]:
        """Look at every fact; gives what is wrong. Raises DefinitionError for what cannot be gone on with.

        :param source: a connection to look through; ``target`` likewise.
        """
        async with self._looking:
            source, target = source or self._ground_source, target or self._ground_target
            if source is None or target is None:
                return self.wrong
            async with alone_on(source):
                found = [*await self._ground.look(source, target), *self._new_columns(), *self._without_place()]
                if self._context.policy.both_write:
                    found += await self._triggers(source, target)
        for each in found:
            if each.consequence == Consequence.STOP:
                raise DefinitionError(each.problem, each.remedy)
            if each not in self.wrong:
                problem, remedy = shortened(each.problem, LONGEST), shortened(each.remedy, LONGEST)
                log.warning("a gate is shut", gate=each.gate, fact=each.name, problem=problem, remedy=remedy)
        for name in {each.gate for each in self.wrong} - {each.gate for each in found}:
            log.info("a gate is open again", gate=name)
        self.wrong = found
        await self.definitions.doubt(wrong=any(each.gate == "ground" for each in found))
        return found

    async def _triggers(self, source: Connection, target: Connection) -> list[Wrong]:
        """While both schemas take writes, those of others rest on neither side, and act on what the daemon writes."""
        found = list(dict.fromkeys([*await awake_on_both_sides(source), *await awake_on_both_sides(target)]))
        if not found:
            return []
        return [
            Wrong(
                name="triggers",
                consequence=Consequence.SHUT,
                problem=f"Triggers act on rows that are written from both sides: {', '.join(found)}. What they do for "
                "the daemon's writes does not reach the other schema.",
                remedy="Drop them until one side alone takes writes.",
            )
        ]

    def _new_columns(self) -> list[Wrong]:
        found = self.definitions.unaccounted()
        if not found:
            return []
        side = "old" if self._context.direction == "forward" else "new"
        return [
            Wrong(
                name=f"{side}_tables.new_columns",
                consequence=Consequence.SHUT,
                problem=f"The migration says nothing about columns that have come since the first start: "
                f"{', '.join(found)}. Their values would be left behind.",
                gate="definitions",
                remedy="Let a transform read each, or retire it: migration.retire('TABLE', column='COLUMN', "
                "because='...'). Where it is copied, add the column to the new table. Then start the daemon again.",
            )
        ]

    def _without_place(self) -> list[Wrong]:
        """Before the cutover, not by it: it would be refused."""
        found = self._targets.without_place()
        if not found:
            return []
        return [
            Wrong(
                name="new_tables.columns_without_place",
                consequence=Consequence.SHUT,
                problem=f"Copied tables have columns without a place: {', '.join(found)}.",
                gate="definitions",
                remedy=f"{REMEDIES['reverse']} Then start the daemon again.",
            )
        ]

    async def measure(self) -> None:
        """Look at the source's position and at the slot. Raises SlotError when that is lost."""
        async with self._lock:
            if self._source is None:
                return
            now = await self._look_at_clock(self._source)
            position = await current_position(self._source)
            slot = await read_slot(self._source, self._progress.slot)
            await look(self._source, self._context.visibility)
        committed_at = self._reached.committed_at
        ago = None if committed_at is None else (now - committed_at).total_seconds()
        self.lag.observe(position, self._reached.position, self._low_lag, ago)
        self.retained_bytes = slot.retained_bytes if slot else 0
        if slot is not None and slot.wal_status == "lost":
            check_slot(slot, self._progress, self._progress.system_id, self._progress.timeline)

    async def _look_at_clock(self, source: Connection) -> datetime:
        now, position = await clock_and_position(source)
        self._clocks.append((now, position))
        while self._clocks and self._clocks[0][1] <= self._reached.position:
            self.applied_through = self._clocks.popleft()[0] - CLOCK_MARGIN
        return now
