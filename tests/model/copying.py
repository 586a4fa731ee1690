"""Backfill, stream, commits that are in the log before they are visible, and daemons that die: invariants I1 to I4, I6.

One source with two keys, in one chunk or two, and one target. A model plays one history: its transactions are
numbered from 1 as they come into the log; a position is the number of the last transaction before it. Sets of
transactions and of keys are bit masks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final, NamedTuple

from tests.model.kinds import Kind
from tests.model.search import Step

Rows = tuple[int | None, ...]
"""Value by key; None: there is no row."""
Transaction = tuple[tuple[int, int | None], ...]
"""Keys and their new values."""
Pairs = frozenset[tuple[int, int]]
"""Source keys and values; of a source whose target keys are remembered, the value is the target key, which may change
hands."""

KEYS: Final = (0, 1)
TAGS: Final = (0, 1, 2)


class Guard(Enum):
    """What keeps it right; the value says what the engine would do without it."""

    TOUCHES = "a chunk is written whole, whatever the stream has touched since its window opened"
    WINDOW_SPOILED = "a window in which too many keys were touched to remember is taken for one in which none was"
    WINDOW_FIRST = "the window opens after the read"
    EXCLUSION = "the applier and chunk writes do not wait for each other"
    ABSENT = "a chunk replaces rows that are there"
    DONE_WITH_ROWS = "a chunk is marked done before its rows, in a transaction of its own"
    SIGHT = "a read takes any snapshot, whatever the stream has delivered"
    SIGHT_KEPT = "a new daemon does not know what the stream had delivered to the one before"
    SIGHT_AT_SLOT = "the first chunk is read as soon as the slot is made, whatever is not visible yet"
    PROGRESS_WITH_ROWS = "the progress is stored before the rows, in a transaction of its own"
    CONFIRM_LATE = "the flush is confirmed before the commit"
    START_STORED = "a stream starts where the server thinks that we are"
    SKIP_STORED = "a transaction that comes again is applied again"
    EPOCH = "a dead daemon's write that has not begun is not refused"
    FENCE = "a new daemon does not wait for a dead one's write that has begun"


class Chunk(NamedTuple):
    """What a copier holds of a chunk."""

    at: str
    """open, read or writing; unwatched: read before its window opens."""
    touched: int = 0
    rows: Pairs = frozenset()
    read_at: int = 0


class Batch(NamedTuple):
    """What the applier's open transaction holds."""

    end: int
    puts: Pairs
    """Target keys and values."""
    deletes: frozenset[int]
    remembered: Pairs = frozenset()
    forgotten: Pairs = frozenset()


class State(NamedTuple):
    """The source, what is stored on the target, and what the daemon has in memory."""

    target: Rows
    crashes: int
    """How many daemons may die yet."""
    committed: int = 0
    """Transactions in the log."""
    hidden: int = 0
    """Those that no snapshot sees yet."""
    slot: bool = False
    memory: Pairs = frozenset()
    done: tuple[int, ...] = ()
    """Where each chunk was read; -1: to be done."""
    applied: int = 0
    confirmed: int = 0
    kept: int = 0
    """Unseen, as stored with the progress."""
    delivered: int = 0
    taken: int = 0
    """How far the applier has come in this life."""
    unseen: int = 0
    """Delivered, and hidden as far as we know."""
    chunks: tuple[Chunk | None, ...] = ()
    batch: Batch | None = None
    late: tuple[int, Chunk | Batch] | None = None
    """A dead daemon's write that may still come."""


Moves = Iterator[tuple[Step, State]]


@dataclass(frozen=True)
class Copying:
    """The model of one history, with some guards switched off.

    :param fine: every step by itself. Without it, a window opens with its read, a chunk is written in one step, and a
        flush is confirmed with its commit: with all guards on, nothing that comes in between makes a difference.
    :param room: so many touched keys are remembered; with more, the windows that are open are spoiled.
    :param lasting: look only at what is wrong for good, when all that was committed is applied.
    """

    kind: Kind
    history: tuple[Transaction, ...]
    off: frozenset[Guard] = frozenset()
    crashes: int = 1
    chunks: int = 1
    fine: bool = True
    room: int = len(KEYS)
    lasting: bool = False

    @property
    def start(self) -> State:
        """Nothing has happened."""
        return State(
            target=(None,) * len(TAGS if self.kind.remembers else KEYS),
            crashes=self.crashes,
            done=(-1,) * self.chunks,
            chunks=(None,) * self.chunks,
        )

    # ---- what must hold

    def judge(self, state: State) -> str | None:
        """What a state breaks."""
        if state.confirmed > state.applied:
            return "I2: more is confirmed than stored"
        if not state.slot or min(state.done) < 0 or state.applied < max(state.done):
            return None
        drained = state.applied == state.committed
        if self.lasting and not (drained and state.batch is None and state.late is None):
            return None
        end = state.committed if self.kind.reads else state.applied
        expected = [self._f(position) for position in range(state.applied, end + 1)]
        if not all(map(self._fits, state.target, zip(*expected, strict=True))):
            return _wrong(state.target, expected[0])
        if self.kind.remembers and drained and state.memory != _pairs(self._rows(state.committed, 0)):
            return "I1: what is remembered is not what was produced"
        return None

    def _fits(self, value: int | None, expected: tuple[int | None, ...]) -> bool:
        """Whether a target row is as it should be at one of several positions.

        One that changes hands may be missing, until the stream has come to where its new owner was read.
        """
        changes_hands = self.kind.remembers and len(set(expected)) > 1
        return value in expected or (value is None and changes_hands)

    def _f(self, position: int) -> Rows:
        """What the target should hold at a position."""
        rows = self._rows(position, 0)
        if not self.kind.remembers:
            return rows
        owners = {tag: key for key, tag in _pairs(rows)}
        return tuple(owners.get(tag) for tag in TAGS)

    def _rows(self, position: int, hidden: int) -> Rows:
        return rows_at(base_of(self.kind), self.history[:position], hidden)

    # ---- what can happen

    def moves(self, state: State) -> Moves:
        """All that can happen next."""
        yield from self._application(state)
        if not state.slot:
            yield from self._create_slot(state)
            return
        yield from self._deliver(state)
        yield from self._apply(state)
        yield from self._confirm(state)
        for number in range(self.chunks):
            yield from self._copy(state, number)
        if state.crashes:
            yield from self._crash(state)
        if state.late is not None:
            yield self._late(state, *state.late)

    def _application(self, state: State) -> Moves:
        number = state.committed + 1
        if number <= len(self.history) and not self._locked(state, self.history[number - 1]):
            changes = ", ".join(
                f"row {key} {'goes' if to is None else f'= {to}'}" for key, to in self.history[number - 1]
            )
            yield (
                Step(f"transaction {number} ({changes}) is in the log"),
                state._replace(committed=number, hidden=state.hidden | 1 << number),
            )
        for number in range(1, state.committed + 1):
            if state.hidden >> number & 1:
                seen = ~(1 << number)
                yield (
                    Step(f"transaction {number} becomes visible"),
                    state._replace(
                        hidden=state.hidden & seen, unseen=state.unseen & seen, kept=state.kept & seen
                    ),
                )  # fmt: skip

    def _locked(self, state: State, transaction: Transaction) -> bool:
        """Whether it waits for rows, or unique values, of one that is not visible yet."""
        for number in range(1, state.committed + 1):
            if state.hidden >> number & 1:
                before = self._rows(number - 1, 0)
                held = self.history[number - 1]
                if {key for key, _ in held} & {key for key, _ in transaction}:
                    return True
                values = {value for key, value in held} | {before[key] for key, _ in held}
                if self.kind.remembers and values & {value for _, value in transaction} - {None}:
                    return True
        return False

    def _create_slot(self, state: State) -> Moves:
        if not state.hidden or Guard.SIGHT_AT_SLOT in self.off:
            here = state.committed
            yield (
                Step("the slot is made", "replicator.pipeline.setup:set_up_slot"),
                state._replace(slot=True, applied=here, confirmed=here, delivered=here, taken=here),
            )

    # ---- the stream

    def _deliver(self, state: State) -> Moves:
        if state.delivered < state.committed:
            number = state.delivered + 1
            reached = state._replace(delivered=number, unseen=state.unseen | (1 << number & state.hidden))
            if number <= state.applied and Guard.SKIP_STORED not in self.off:
                skipped = Step(
                    f"transaction {number} comes again and is skipped",
                    "replicator.follow.transaction_buffer:TransactionBuffer._skip",
                )
                yield skipped, reached._replace(taken=number)
            else:
                step = Step(f"the stream brings {number}", "replicator.follow.follower:Follower._decode")
                yield step, reached

    def _apply(self, state: State) -> Moves:
        if state.batch is not None:
            end = state.batch.end
            kept = 0 if Guard.SIGHT_KEPT in self.off else state.unseen
            done = _write_batch(state, state.batch)._replace(batch=None, taken=end, applied=end, kept=kept)
            if not self.fine:
                done = done._replace(confirmed=end)
            yield Step(f"the applier commits {end}", "replicator.apply.applier:Applier.transaction"), done
        elif self._may_begin(state):
            for end in range(state.taken + 1, state.delivered + 1):
                yield from self._begin_batch(state, end)

    def _may_begin(self, state: State) -> bool:
        writing = any(chunk and chunk.at == "writing" for chunk in state.chunks)
        return not writing or Guard.EXCLUSION in self.off

    def _begin_batch(self, state: State, end: int) -> Moves:
        changed = {key: value for each in self.history[state.taken : end] for key, value in each}
        if dirty := [key for key, value in changed.items() if self.kind.reads_again(gone=value is None)]:
            if not self._sees(state):
                return
            rows = self._rows(state.committed, state.hidden)
            changed.update({key: rows[key] for key in dirty})
        touched = sum(1 << key for key in changed)
        noting = ("open", "read")
        chunks = tuple(
            chunk._replace(touched=chunk.touched | touched) if chunk and chunk.at in noting else chunk
            for chunk in state.chunks
        )
        begun = state._replace(batch=self._effects(state, end, changed), chunks=chunks)
        if Guard.PROGRESS_WITH_ROWS in self.off:
            begun = begun._replace(applied=end)
        several = f"{state.taken + 1} to {end}" if end > state.taken + 1 else f"{end}"
        yield Step(f"the applier writes {several}", "replicator.apply.work:Work.apply"), begun

    def _effects(self, state: State, end: int, changed: dict[int, int | None]) -> Batch:
        now = frozenset((key, value) for key, value in changed.items() if value is not None)
        if not self.kind.remembers:
            return Batch(end, now, frozenset(key for key, value in changed.items() if value is None))
        before = frozenset(pair for pair in state.memory if pair[0] in changed)
        written = {tag for _, tag in now}
        gone = frozenset(tag for _, tag in before - now if tag not in written)
        return Batch(end, frozenset((tag, key) for key, tag in now), gone, now - before, before - now)

    def _confirm(self, state: State) -> Moves:
        early = Guard.CONFIRM_LATE in self.off and state.batch is not None
        end = state.batch.end if early and state.batch else state.applied
        if state.confirmed < end:
            step = Step(f"{end} is confirmed", "replicator.pipeline.pipeline:Pipeline._confirm")
            yield step, state._replace(confirmed=end)

    # ---- the backfill

    def _copy(self, state: State, number: int) -> Moves:
        chunk = state.chunks[number]
        if chunk is None:
            if state.done[number] < 0:
                yield from self._open(state, number)
        elif chunk.at == "open":
            if self._sees(state):
                yield self._read(state, number, chunk)
        elif chunk.at == "unwatched":
            watched = _with(state, number, chunk._replace(at="read"))
            yield _window(number), watched
        elif chunk.at == "read":
            if state.batch is None or Guard.EXCLUSION in self.off:
                if self._spoiled(chunk) and Guard.WINDOW_SPOILED not in self.off:
                    step = Step(f"chunk {number} is to be read again", "replicator.backfill.copier:Copier.copy")
                    yield step, _with(state, number, None)
                else:
                    yield self._begin_write(state, number, chunk)
        else:
            written = _with(self._write_chunk(state, number, chunk), number, None)
            yield Step(f"chunk {number} commits", "replicator.postgres.control.progress:finish_chunk"), written

    def _open(self, state: State, number: int) -> Moves:
        opened = Chunk("open")
        if Guard.WINDOW_FIRST in self.off:
            if self._sees(state):
                yield self._read(state, number, opened, then="unwatched")
        elif self.fine:
            yield _window(number), _with(state, number, opened)
        elif self._sees(state):
            yield self._read(state, number, opened)

    def _read(self, state: State, number: int, chunk: Chunk, then: str = "read") -> tuple[Step, State]:
        found = _pairs(self._rows(state.committed, state.hidden))
        rows = found if self.chunks == 1 else frozenset(pair for pair in found if pair[0] == number)
        read = Chunk(then, chunk.touched, rows, state.committed)
        return Step(f"chunk {number} is read", "replicator.backfill.copier:Copier._parts"), _with(state, number, read)

    def _begin_write(self, state: State, number: int, chunk: Chunk) -> tuple[Step, State]:
        writing = self._looked(chunk)
        step = Step(f"chunk {number} is written", "replicator.backfill.copier:Copier._write")
        if not self.fine:
            return step, _with(self._write_chunk(state, number, writing), number, None)
        if Guard.DONE_WITH_ROWS in self.off:
            state = state._replace(done=_put(state.done, number, chunk.read_at))
        return step, _with(state, number, writing)

    def _looked(self, chunk: Chunk) -> Chunk:
        """Ready to be written: what the stream has touched is dropped."""
        kept = chunk.rows
        if Guard.TOUCHES not in self.off and not self._spoiled(chunk):
            kept = frozenset(pair for pair in chunk.rows if not chunk.touched >> pair[0] & 1)
        return Chunk("writing", rows=kept, read_at=chunk.read_at)

    def _spoiled(self, chunk: Chunk) -> bool:
        """Whether the stream has touched more keys than are remembered."""
        return chunk.touched.bit_count() > self.room

    def _write_chunk(self, state: State, number: int, chunk: Chunk) -> State:
        target = list(state.target)
        for key, value in chunk.rows:
            place, content = (value, key) if self.kind.remembers else (key, value)
            if target[place] is None or Guard.ABSENT in self.off:
                target[place] = content
        memory = state.memory | chunk.rows if self.kind.remembers else state.memory
        done = _put(state.done, number, chunk.read_at)
        return state._replace(target=tuple(target), memory=memory, done=done)

    def _sees(self, state: State) -> bool:
        return not state.unseen or Guard.SIGHT in self.off

    # ---- the end of a daemon

    def _crash(self, state: State) -> Moves:
        where = state.confirmed if Guard.START_STORED in self.off else state.applied
        again = state._replace(
            crashes=state.crashes - 1,
            delivered=where,
            taken=where,
            unseen=state.kept,
            chunks=(None,) * self.chunks,
            batch=None,
        )
        yield Step("the daemon dies, a new one starts", "replicator.pipeline.pipeline:Pipeline.open"), again
        for number, late in self._survivors(state):
            what = f"transaction {late.end}" if isinstance(late, Batch) else f"chunk {number}"
            words = f"a new daemon takes the lease while the old one has {what} to write"
            yield Step(words, "replicator.postgres.control.lease:Lease.acquire"), again._replace(late=(number, late))

    def _survivors(self, state: State) -> Iterator[tuple[int, Chunk | Batch]]:
        """What an old daemon that has lost its lease may still write: with both guards on, nothing."""
        if state.batch is not None and Guard.FENCE in self.off:
            yield 0, state.batch
        for number, chunk in enumerate(state.chunks):
            if chunk is not None and chunk.at == "writing" and Guard.FENCE in self.off:
                yield number, chunk
            if chunk is not None and chunk.at == "read" and Guard.EPOCH in self.off:
                yield number, self._looked(chunk)

    def _late(self, state: State, number: int, late: Chunk | Batch) -> tuple[Step, State]:
        state = state._replace(late=None)
        if isinstance(late, Chunk):
            return Step(f"the old daemon commits chunk {number}"), self._write_chunk(state, number, late)
        return Step(f"the old daemon commits {late.end}"), _write_batch(state, late)._replace(applied=late.end)


def base_of(kind: Kind) -> Rows:
    """The source at the start."""
    return (0, 1) if kind.remembers else (0, None)


@cache
def rows_at(base: Rows, transactions: tuple[Transaction, ...], hidden: int) -> Rows:
    """The source after these transactions, those that are hidden left out."""
    rows = list(base)
    for number, transaction in enumerate(transactions, 1):
        if not hidden >> number & 1:
            for key, value in transaction:
                rows[key] = value
    return tuple(rows)


def histories(kind: Kind, length: int) -> Iterator[tuple[Transaction, ...]]:
    """Every history of so many transactions."""
    if length == 0:
        yield ()
        return
    for before in histories(kind, length - 1):
        for last in _transactions(kind, rows_at(base_of(kind), before, 0), length):
            yield (*before, last)


def _transactions(kind: Kind, rows: Rows, number: int) -> Iterator[Transaction]:
    """What the application may do to these rows; values are unique where they are target keys."""
    taken = {tag for _, tag in _pairs(rows)}
    for key in KEYS:
        other = 1 - key
        if rows[key] is not None:
            yield ((key, None),)
            if rows[other] is None:
                yield ((key, None), (other, rows[key] if kind.remembers else number))
        if kind.remembers:
            for tag in TAGS:
                if tag not in taken:
                    yield ((key, tag),)
        else:
            yield ((key, number),)
    if kind.remembers and None not in rows:
        yield ((0, rows[1]), (1, rows[0]))


def _write_batch(state: State, batch: Batch) -> State:
    target = list(state.target)
    for place in batch.deletes:
        target[place] = None
    for place, value in batch.puts:
        target[place] = value
    return state._replace(target=tuple(target), memory=(state.memory - batch.forgotten) | batch.remembered)


def _pairs(rows: Rows) -> Pairs:
    return frozenset((key, value) for key, value in enumerate(rows) if value is not None)


def _window(number: int) -> Step:
    return Step(f"the window of chunk {number} opens", "replicator.core.dirty_keys:DirtyKeys.window")


def _with(state: State, number: int, chunk: Chunk | None) -> State:
    return state._replace(chunks=(*state.chunks[:number], chunk, *state.chunks[number + 1 :]))


def _put(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _wrong(target: Rows, expected: Rows) -> str:
    for value, should in zip(target, expected, strict=True):
        if value is not None and should is None:
            return "I1: a row is there that nothing gives"
        if value is None and should is not None:
            return "I1: a row is missing"
    return "I1: a row is not what it should be"
