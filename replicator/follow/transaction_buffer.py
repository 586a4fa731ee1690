"""Assembles the stream's events into whole transactions, and hands them out in bounded batches (invariant I5)."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

from replicator.core.changes import Begin, Change, Commit, Event, Message, Origin
from replicator.core.lsn import LSN
from replicator.errors import ProtocolError
from replicator.follow.decoder import MESSAGE_PREFIX

BYTES_HELD = 8 << 20
"""How much of the stream waits here before the reader stops reading; as objects it takes some ten times the room."""

OVERHEAD = 50
"""What each event counts beyond its bytes: there may be millions of small ones."""

MOST_MESSAGES = 16
"""Kept of one transaction: none of ours has as many, and anyone may write a transaction of a million messages."""

HEARTBEAT = "heartbeat"


@dataclass(kw_only=True)
class Batch:
    """Changes in commit order: several whole transactions, or a part of one that is larger than a batch.

    ``end`` is None when the transaction goes on in the next batch.
    """

    changes: list[Change] = field(default_factory=list)
    end: LSN | None = None
    committed_at: datetime | None = None
    transactions: int = 0
    size: int = 0
    """In bytes, as the inbox counts."""
    messages: list[str] = field(default_factory=list)
    """Markers of ours that the batch's last transaction carries."""

    def extend(self, later: "Batch") -> None:
        """Take a later batch in."""
        self.changes += later.changes
        self.end, self.committed_at = later.end, later.committed_at
        self.transactions += later.transactions
        self.size += later.size
        self.messages += later.messages


@dataclass
class _Transaction:
    changes: list[Change] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Of each change, in bytes."""
    messages: list[str] = field(default_factory=list)
    end: LSN | None = None
    committed_at: datetime | None = None
    size: int = 0
    idle: bool = False
    """A mere position: nothing in it is for us."""
    own: bool = False


class TransactionBuffer:
    """Filled by the reader, emptied by the applier; holds a bounded part of the stream."""

    def __init__(self, applied: LSN) -> None:
        self._applied = applied
        self._queue: deque[_Transaction] = deque()
        self._open: _Transaction | None = None
        self._size = 0
        self._condition = asyncio.Condition()
        self.received = applied
        self.prefix = MESSAGE_PREFIX
        """Of our messages; others' are passed over."""
        self.own_origins: frozenset[str] = frozenset()
        """What the opposite pipeline writes under: these changes are marked, or left out."""
        self.keeps_own = True
        """False: they are left out."""

    async def put(self, events: list[tuple[Event, int]], received: LSN) -> None:
        """Add decoded events, each with its size in bytes; waits while the inbox is full. Raises ProtocolError."""
        async with self._condition:
            await self._condition.wait_for(lambda: self._size < BYTES_HELD)
            for event, size in events:
                self._add(event, size)
            self.received = max(self.received, received)
            self._condition.notify_all()

    async def idle(self, position: LSN) -> None:
        """The server says that all up to this position has been sent."""
        async with self._condition:
            self.received = max(self.received, position)
            # A position inside a transaction would be confirmed before its rows are written (I2).
            # mutation: idle-inside-transaction
            if self._open is not None or position <= self._applied:
                return
            if self._queue and self._queue[-1].idle:
                self._queue[-1].end = position
            elif not self._queue or (self._queue[-1].end or 0) < position:
                self._queue.append(_Transaction(end=position, idle=True))
            self._condition.notify_all()

    async def take(self, rows: int) -> Batch:
        """The next batch of about so many rows; waits until there is one."""
        async with self._condition:
            await self._condition.wait_for(lambda: self._ready(rows))
            batch = self._take(rows)
            self._condition.notify_all()
            return batch

    @property
    def empty(self) -> bool:
        """Nothing waits."""
        return not self._queue

    def _ready(self, rows: int) -> bool:
        if not self._queue:
            return False
        head = self._queue[0]
        return head.end is not None or len(head.changes) >= rows or self._size >= BYTES_HELD

    def _take(self, rows: int) -> Batch:
        batch = Batch()
        # What follows a start marker is to be applied, and would be skipped with it. mutation: message-ends-batch
        while self._queue and not batch.messages:
            head = self._queue[0]
            fits = len(batch.changes) + len(head.changes) <= rows
            if head.end is None or not fits:
                if batch.end is None:  # else it would be a part that seems to end where the one before it ended
                    self._split(head, batch, rows)
                break
            self._queue.popleft()
            self._size -= head.size
            self._close(head, batch)
        return batch

    def _close(self, whole: _Transaction, batch: Batch) -> None:
        batch.changes += whole.changes
        batch.size += whole.size
        batch.messages += whole.messages
        batch.end, batch.committed_at = whole.end, whole.committed_at
        batch.transactions += 0 if whole.idle else 1

    def _split(self, head: _Transaction, batch: Batch, rows: int) -> None:
        """Take the front of a transaction that is too large for one batch, or not complete yet."""
        batch.changes, head.changes = head.changes[:rows], head.changes[rows:]
        taken, head.sizes = sum(head.sizes[:rows]), head.sizes[rows:]
        if head.end is not None and not head.changes:
            self._queue.popleft()
            self._size -= head.size
            self._close(head, batch)
            return
        batch.size += taken
        head.size -= taken
        self._size -= taken

    def _add(self, event: Event, size: int) -> None:
        match event:
            case Begin():
                if self._open is not None:
                    raise ProtocolError("The stream began a transaction inside another.")
                self._open = _Transaction(committed_at=event.committed_at)
                self._queue.append(self._open)
                self._grow(self._open, OVERHEAD)
            case Origin(origin=origin) if self._open:
                self._open.own = origin in self.own_origins
            case Commit():
                self._commit(event)
            case Change():
                if self._open is None:
                    raise ProtocolError("The stream carried a change outside a transaction.")
                self._change(self._open, event, size)
            case Message(prefix=prefix, content=content, transactional=True) if self._open and prefix == self.prefix:
                text = content.decode("utf-8", "replace")
                if text != HEARTBEAT and len(self._open.messages) < MOST_MESSAGES:
                    self._open.messages.append(text)
                    self._grow(self._open, size + OVERHEAD)
            case _:
                pass

    def _change(self, transaction: _Transaction, change: Change, size: int) -> None:
        if transaction.own and not self.keeps_own:
            return
        change.committed_at, change.own = transaction.committed_at, transaction.own
        transaction.changes.append(change)
        transaction.sizes.append(size + OVERHEAD)
        self._grow(transaction, size + OVERHEAD)

    def _grow(self, transaction: _Transaction, size: int) -> None:
        transaction.size += size
        self._size += size

    def _commit(self, commit: Commit) -> None:
        done, self._open = self._open, None
        if done is None:
            raise ProtocolError("The stream committed a transaction that it had not begun.")
        done.end, done.committed_at = commit.end_lsn, commit.committed_at
        # In one database our own progress comes back as an empty transaction: to store progress for it would go on
        # for ever.
        done.idle = not done.changes and not done.messages
        # After a reconnect the server sends again what was not confirmed: it would be applied twice.
        # guard: SKIP_STORED; mutation: applied-already
        if commit.end_lsn <= self._applied:
            self._skip(done)
        elif done.idle and len(self._queue) > 1 and self._queue[-2].idle:
            self._drop_last()  # one mere position is enough: the server may commit thousands while a batch is written
            self._queue[-1].end, self._queue[-1].committed_at = done.end, done.committed_at

    def _skip(self, done: _Transaction) -> None:
        """A transaction that is applied already comes again: the slot saves its position only now and then."""
        if not self._queue or self._queue[-1] is not done:
            raise ProtocolError("A transaction that is applied already came again, too large to be told in time.")
        self._drop_last()

    def _drop_last(self) -> None:
        self._size -= self._queue.pop().size
