"""The replication stream: a connection in COPY_BOTH mode, read by the event loop only while somebody wants more.

psycopg opens it (3.3 and later) and offers nothing more, so what follows speaks libpq. Nothing here waits in psycopg:
to cancel such a wait cancels the server's query, and with it the stream.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final, Self

import psycopg
from psycopg import pq
from psycopg.errors import Diagnostic, error_from_result

from replicator.core.lsn import LSN
from replicator.errors import CheckError, ConnectionLostError, ReplicatorError
from replicator.postgres.session.connect import Connection, translate, translated
from replicator.postgres.wire.frames import Frame, Keepalive, XLogData, parse_frame, status_update
from replicator.postgres.wire.walsender import (
    Matters,
    SystemIdentity,
    ending,
    everything_matters,
    identify_system,
    left_out,
    left_out_of,
    open_walsender,
    refusal,
    says_left_out,
    start_command,
)

__all__ = ["Frame", "Keepalive", "ReplicationStream", "SystemIdentity", "XLogData", "identify_system"]

BATCH_BYTES: Final = 1 << 20
"""How much is read before it is handed over; one message may be larger."""

MOST_LEFT_OUT: Final = 1_000
"""Warnings that are remembered as no matter: a statement may bring one for each row."""

LOOK_AGAIN_SECONDS: Final = 0.25
"""The layer that encrypts may hold bytes that no longer make the socket readable: look after this time."""

POSTGRES_EPOCH: Final = 946_684_800
"""2000-01-01 UTC, in seconds since 1970."""


class ReplicationStream:
    """One open stream. One task iterates over ``frames``; ``send_status`` may be called from any thread."""

    def __init__(self, connection: Connection, slot: str, matters: Matters = everything_matters) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        """Around every call of libpq: a connection is no two threads' at a time."""
        self._waiting: asyncio.Future[None] | None = None
        self._reading_from: int | None = None
        self._writing_to: int | None = None
        self._failure: ReplicatorError | None = None
        self._over = False
        self._closed = False
        self._matters = matters
        self._left_out: dict[str, bool] = {}
        """Warnings that changes were left out, and whether that has been found to be no matter."""

    @classmethod
    async def start(
        cls,
        dsn: str,
        slot: str,
        start: LSN,
        options: Sequence[tuple[str, str]],
        matters: Matters = everything_matters,
    ) -> Self:
        """Open the stream of a slot.

        :param start: what was confirmed last; below the slot's own position it has no effect.
        :param options: the output plugin's, not quoted.
        :param matters: whether changes of a table that the server leaves out must end the stream.
        :raises SlotError: the slot cannot go on.
        :raises ConnectionLostError: no answer, or another process still reads the slot.
        """
        connection = await open_walsender(dsn)
        try:
            stream = cls(connection, slot, matters)
            connection.add_notice_handler(stream._noticed)
            await stream._start(start_command(slot, start, options))
        except BaseException:
            await connection.close()
            raise
        return stream

    async def frames(self) -> AsyncIterator[list[Frame]]:
        """Everything at hand, as often as asked; in between nothing is read, so that a slow reader slows the server.

        Ends when the stream is closed on this side. Its task may be cancelled: called anew, it goes on with the next
        frame.

        :raises ConnectionLostError: the server ended the stream, or went away.
        :raises SlotError: the server has removed what the slot needed.
        :raises DefinitionError: the server left changes out.
        """
        while True:
            await asyncio.sleep(0)  # a stream that never runs dry must not starve the other tasks
            if self._closed:
                return
            frames = self._take()
            await self._refuse_what_was_left_out()  # before what came with it is handed over
            if frames:
                yield frames
            elif self._failure:
                raise self._failure
            elif self._over:
                self._failure = await self._end()
            else:
                await self._readable()

    def send_status(self, written: LSN, flushed: LSN, reply: bool = False) -> None:
        """Tell the server how far we are, without waiting: what the socket does not take now follows by itself.

        :param reply: ask for a keepalive in return.
        :raises ConnectionLostError: the connection is gone, or closed.
        """
        microseconds = time.time_ns() // 1000 - POSTGRES_EPOCH * 1_000_000
        with translated():
            with self._lock:
                self._pgconn.put_copy_data(status_update(written, flushed, microseconds, reply=reply))
            if threading.get_ident() == self._thread:
                self._flush()
                return
            with self._lock:
                left = self._pgconn.flush() != 0
            if left:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._flush_more)

    async def close(self) -> None:
        """End the stream; whoever waits in ``frames`` comes to its end. Harmless when done twice."""
        self._stop_reading()
        self._stop_writing()
        self._wake()
        with self._lock:  # else the connection could be freed under another thread's call
            self._closed = True
            await self._connection.close()

    async def _start(self, command: bytes) -> None:
        try:
            cursor = await self._connection.execute(command)
        except psycopg.Error as error:
            raise refusal(error, self._slot) from error
        if cursor.pgresult is None or cursor.pgresult.status != pq.ExecStatus.COPY_BOTH:
            raise CheckError(
                "START_REPLICATION did not open a stream.",
                "Connect to Postgres itself: most connection poolers cannot carry replication.",
            )

    def _noticed(self, notice: Diagnostic) -> None:
        if says_left_out(notice):
            self._left_out.setdefault(notice.message_primary or "a warning", False)

    async def _refuse_what_was_left_out(self) -> None:
        for notice, known in list(self._left_out.items()):
            table = left_out_of(notice)
            if not known and (table is None or await self._matters(table)):
                raise left_out(notice)
            self._left_out[notice] = True
        if len(self._left_out) > MOST_LEFT_OUT:
            self._left_out.clear()

    def forget_left_out(self) -> None:
        """Ask again about tables that were no matter: one of them may have become a partition."""
        self._left_out.clear()

    # ---- reading

    def _take(self) -> list[Frame]:
        """The frames that have arrived, up to BATCH_BYTES; sets ``_over`` at the stream's end."""
        frames: list[Frame] = []
        room, dry = BATCH_BYTES, False
        while room > 0 and not self._over and not self._failure:
            try:
                with self._lock:
                    length, data = self._pgconn.get_copy_data(1)
                if length > 0:
                    frames.append(parse_frame(data))
                    room, dry = room - length, False
                elif length < 0:
                    self._over = True
                elif dry:
                    break
                else:
                    with self._lock:
                        self._pgconn.consume_input()
                    dry = True
            except psycopg.Error as error:
                self._failure = translate(error)
                self._stop_writing()  # libpq has closed the socket
        return frames

    async def _end(self) -> ReplicatorError:
        """Why the server ended the stream."""
        try:
            while self._pgconn.is_busy():
                await self._readable()
                with self._lock:
                    self._pgconn.consume_input()
            with self._lock:
                result = self._pgconn.get_result()
        except psycopg.Error as error:
            return translate(error)
        if result is None or result.status != pq.ExecStatus.FATAL_ERROR:
            return ConnectionLostError(
                "The server ended the replication stream.", "It is shutting down, or was told to."
            )
        return ending(error_from_result(result), self._slot)

    async def _readable(self) -> None:
        """Wait until there may be something to read, or the stream is closed."""
        self._waiting = self._loop.create_future()
        timer = self._loop.call_later(LOOK_AGAIN_SECONDS, self._wake)
        try:
            with translated():
                self._reading_from = self._pgconn.socket
            self._loop.add_reader(self._reading_from, self._wake)
            await self._waiting
        finally:
            self._stop_reading()
            self._waiting = None
            timer.cancel()

    def _wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    def _stop_reading(self) -> None:
        # Only our own: once libpq has closed the socket, its number may be somebody else's.
        if self._reading_from is not None:
            self._loop.remove_reader(self._reading_from)
            self._reading_from = None

    # ---- writing

    def _flush(self) -> None:
        with self._lock:
            left = self._pgconn.flush() != 0
        if not left:
            self._stop_writing()
        elif self._writing_to is None:
            self._writing_to = self._pgconn.socket
            self._loop.add_writer(self._writing_to, self._flush_more)

    def _flush_more(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self._stop_writing()
            self._failure = self._failure or translate(error)
            self._wake()

    def _stop_writing(self) -> None:
        if self._writing_to is not None:
            self._loop.remove_writer(self._writing_to)
            self._writing_to = None
