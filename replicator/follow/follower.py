"""Reads the replication stream into the inbox, and tells the server how far it has been applied."""

import asyncio
from collections.abc import Callable

from replicator.core.changes import Begin, Event, RelationDefinition
from replicator.core.lsn import LSN, DurableLSN, format_lsn
from replicator.follow.decoder import Decoder
from replicator.follow.transaction_buffer import TransactionBuffer
from replicator.postgres.rows.context import Context
from replicator.postgres.wire.feedback import keep_telling
from replicator.postgres.wire.replication import Keepalive, ReplicationStream, XLogData
from replicator.postgres.wire.walsender import is_followed
from replicator.runtime.log import get_logger

log = get_logger("follow")

STATUS_SECONDS = 0.5
"""Well below half of any sensible wal_sender_timeout: a server that hears nothing ends the stream."""


class Follower:
    """One stream. ``run`` never returns; it raises when the stream ends or cannot be understood."""

    def __init__(
        self,
        context: Context,
        decoder: Decoder,
        slot: str,
        inbox: TransactionBuffer,
        start: LSN,
        on_definition: Callable[[RelationDefinition], None],
    ) -> None:
        self._context = context
        self._decoder = decoder
        self._slot = slot
        self._inbox = inbox
        self._flushed = start
        self._on_definition = on_definition
        self._stream: ReplicationStream | None = None
        self.reply_wanted = False
        """The server has asked to hear from us, as it does before it shuts down."""

    async def run(self) -> None:
        """Follow. Raises ConnectionLostError, SlotError, ProtocolError or DefinitionError."""
        # From what is stored: what the server has as confirmed may lag behind, and comes again. guard: START_STORED
        stream = await ReplicationStream.start(
            self._context.source_dsn, self._slot, self._flushed, self._decoder.options(), self._is_followed
        )
        self._stream = stream
        log.info("following", slot=self._slot, start=format_lsn(self._flushed))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(stream), name="read stream")
                group.create_task(self._report(stream), name="report status")
        finally:
            self._stream = None
            await stream.close()

    def forget_left_out(self) -> None:
        """Tables have changed: one that was no matter may be a partition of one that is followed."""
        if self._stream is not None:
            self._stream.forget_left_out()

    async def _is_followed(self, written: str) -> bool:
        followed = {each.name for each in self._context.plan.watched.values()}
        leaves = {leaf for each in self._context.plan.watched.values() for leaf in each.leaves}
        return await is_followed(self._context.source_dsn, written, followed | leaves)

    def confirm(self, flushed: DurableLSN) -> None:
        """All up to here is durable on the target: the server may forget it. Never call this before the commit (I2)."""
        self._flushed = max(self._flushed, flushed)
        if self._stream is not None:
            self._stream.send_status(*self._positions())

    def _positions(self) -> tuple[LSN, LSN]:
        return max(self._inbox.received, self._flushed), self._flushed

    async def _read(self, stream: ReplicationStream) -> None:
        async for frames in stream.frames():
            events: list[tuple[Event, int]] = []
            received = self._inbox.received
            idle: LSN | None = None
            for frame in frames:
                if isinstance(frame, XLogData):
                    idle = None
                    received = max(received, frame.start)
                    events += [(event, len(frame.payload)) for event in self._decode(frame.payload)]
                elif isinstance(frame, Keepalive):
                    idle = frame.end
                    self._answer(stream, frame)
            if events:
                await self._inbox.put(events, received)
            if idle is not None:
                await self._inbox.idle(idle)
            frames.clear()  # else they would be in memory until the next ones are there

    def _decode(self, payload: bytes) -> list[Event]:
        events = self._decoder.decode(payload)
        for event in events:
            if isinstance(event, Begin):
                self._context.visibility.delivered(event.xid)
            elif isinstance(event, RelationDefinition):
                self._on_definition(event)
        return events

    def _answer(self, stream: ReplicationStream, frame: Keepalive) -> None:
        if frame.reply_requested:
            self.reply_wanted = True
            stream.send_status(*self._positions())

    async def _report(self, stream: ReplicationStream) -> None:
        await keep_telling(lambda: stream.send_status(*self._positions()), STATUS_SECONDS)
