"""The cutover and the way back: who may write, who follows, and what a crash or a lost reply leaves (invariant I8).

One row on two sides, 0 and 1; the application counts up in it, and may try either side at any time. A move of ownership
is the same procedure there and back. A log holds the values that were written on its side, by whomever, and markers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeVar

from tests.model.search import Step

V = TypeVar("V")

LOG_LENGTH: Final = 9
"""Where two streams that feed each other are cut off."""

FOLLOWING, PREPARED, LOCKED, DRAINED, MOVED, SENT, LOST, COMMITTED, DOWN = (
    "following", "prepared", "locked", "drained", "moved", "sent", "lost", "committed", "down",
)  # fmt: skip
"""Where the daemon is."""
NONE, OPEN, WRITTEN, COMMITTING = "none", "open", "written", "committing"
"""Where the server is with the cutover's transaction."""


class Guard(Enum):
    """What keeps it right; the value says what the engine would do without it."""

    LOCK = "the writers are not locked out"
    LOCK_HELD = "the lock is given back after the drain"
    DRAIN = "ownership moves without waiting for what is in the stream"
    GUARDS_WITH_ROW = "the old owner's tables are guarded in a transaction of their own, after the state row's"
    STATE_ROW = "a lost reply is taken for a failure"
    STATE_ROW_SETTLED = "the state row is read while the commit may still be under way"
    STANDSTILL = "the stream that led to the new owner still applies when the opposite one begins"
    SHADOW = "the opposite stream writes from its slot on"
    MARKER_WITH_OPENING = "the start marker is sent after the new owner's tables are open"
    CUTOVER_FENCE = "a new daemon does not wait for a dead one's cutover, nor refuse one that has not begun"


class Pipe(NamedTuple):
    """The stream from one side to the other, as it is stored."""

    position: int
    waits_for: int = 0
    """The marker before which it writes nothing; 0: it writes."""


class State(NamedTuple):
    """Both databases, the application, and the daemon."""

    crashes: int
    owner: int = 0
    epoch: int = 0
    values: tuple[int, int] = (0, 0)
    guards: tuple[bool, bool] = (False, True)
    """Who is refused."""
    logs: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """Values, and markers as negative epochs."""
    pipes: tuple[Pipe | None, Pipe | None] = (Pipe(0), None)
    """By the side that they read."""
    moving: bool = False
    """The stored phase: a move of ownership is under way."""
    acknowledged: int = 0
    """The application's last write."""
    writing: int | None = None
    """Where it has a transaction open."""
    locked: int | None = None
    server: str = NONE
    at: str = FOLLOWING
    side: int = 0
    """From where ownership moves, while it moves."""
    still: bool = False
    opened: bool = True
    """The owner's tables have been opened."""
    marked: bool = True
    """The start marker has been sent."""


Moves = Iterator[tuple[Step, State]]


@dataclass(frozen=True)
class Moving:
    """The model, with some guards switched off.

    :param together: both sides are one database, so the new owner's tables open in the transaction that moves.
    """

    off: frozenset[Guard] = frozenset()
    together: bool = True
    writes: int = 2
    moves_of_ownership: int = 2
    crashes: int = 1

    @property
    def start(self) -> State:
        """The old schema owns the data, and is followed."""
        return State(crashes=self.crashes)

    # ---- what must hold

    def judge(self, state: State) -> str | None:
        """What a state breaks."""
        owner, other = state.owner, 1 - state.owner
        if not any(state.guards):
            return "I8: both sides are open to writers"
        if state.values[owner] != state.acknowledged:
            return "I8: the owner has not got what the application wrote last"
        pipe = state.pipes[owner]
        if not state.guards[owner] and state.locked != owner and pipe is None:
            return "I8: the application writes where nothing follows"
        settled = state.at == FOLLOWING and state.server == NONE
        drained = pipe is not None and not pipe.waits_for and pipe.position == len(state.logs[owner])
        if settled and drained and state.values[other] != state.acknowledged:
            return "I8: the other side is not in step, and nothing is on its way"
        if all(state.guards) and next(self.moves(state), None) is None:
            return "I8: nobody may write, and nothing goes on"
        return None

    # ---- what can happen

    def moves(self, state: State) -> Moves:
        """All that can happen next."""
        yield from self._application(state)
        yield from self._server(state)
        if state.at == DOWN:
            yield from self._restart(state)
            return
        yield from self._streams(state)
        yield from self._cutover(state)
        yield from self._settle(state)
        if state.crashes:
            yield from self._crash(state)

    def _application(self, state: State) -> Moves:
        number = state.acknowledged + 1
        if state.writing is not None:
            side = state.writing
            written = state._replace(acknowledged=number, writing=None, values=_put(state.values, side, number))
            yield Step(f"the application commits {number} on side {side}"), _logged(written, side, number)
        elif number <= self.writes:
            for side in (0, 1):
                if not state.guards[side] and state.locked != side:
                    yield Step(f"it writes {number} on side {side}"), state._replace(writing=side)

    def _streams(self, state: State) -> Moves:
        for side, pipe in enumerate(state.pipes):
            if pipe is None or pipe.position == len(state.logs[side]) or (state.still and side == state.side):
                continue
            entry = state.logs[side][pipe.position]
            onward = Pipe(pipe.position + 1, 0 if -entry == pipe.waits_for else pipe.waits_for)
            reached = state._replace(pipes=_put(state.pipes, side, onward))
            if entry > 0 and not pipe.waits_for:
                if len(state.logs[1 - side]) == LOG_LENGTH:
                    continue
                reached = _logged(reached._replace(values=_put(state.values, 1 - side, entry)), 1 - side, entry)
            what = f"{entry} of side {side}" if entry > 0 else f"a start marker of side {side}"
            words = f"{what} is passed over" if pipe.waits_for else f"{what} is applied to side {1 - side}"
            yield Step(words, "replicator.pipeline:Pipeline._apply"), reached

    def _cutover(self, state: State) -> Moves:
        owner, other = state.side, 1 - state.side
        pipe = state.pipes[owner]
        match state.at:
            case "following" if state.epoch < self.moves_of_ownership and not _shadowed(state):
                marker = state.epoch + 1 if Guard.SHADOW not in self.off else 0
                opposite = Pipe(len(state.logs[1 - state.owner]), marker)
                prepared = state._replace(at=PREPARED, moving=True, side=state.owner)
                yield (
                    Step("the opposite stream is prepared", "replicator.moves:Moves._prepare_opposite"),
                    prepared._replace(pipes=_put(state.pipes, 1 - state.owner, opposite)),
                )
            case "prepared" if state.writing != owner or Guard.LOCK in self.off:
                lock = None if Guard.LOCK in self.off else owner
                locked = state._replace(at=LOCKED, server=OPEN, locked=lock)
                yield Step("the writers are locked out", "replicator.postgres.ownership:lock_writers"), locked
            case "locked" if Guard.DRAIN in self.off or (pipe and pipe.position == len(state.logs[owner])):
                lock = None if Guard.LOCK_HELD in self.off else state.locked
                drained = Step("the stream is drained", "replicator.cutover:Cutover._drain")
                yield drained, state._replace(at=DRAINED, locked=lock)
            case "drained":
                still = Guard.STANDSTILL not in self.off
                moved = state._replace(at=MOVED, server=WRITTEN, still=still)
                yield Step("guards and state row are written", "replicator.cutover:Cutover._move"), moved
            case "moved":
                sent = Step("the commit is sent", "replicator.cutover:Cutover._commit")
                yield sent, state._replace(at=SENT, server=COMMITTING)
            case "sent":
                if state.server == NONE:
                    yield Step("the daemon hears of it"), state._replace(at=COMMITTED)
                yield Step("the connection is lost"), state._replace(at=LOST)
        if state.at in (PREPARED, LOCKED, DRAINED, MOVED):
            ended = state._replace(server=NONE, locked=None)
            step = Step("it takes too long and is given up", "replicator.moves:Moves._take_back")
            yield step, self._taken_back(ended, other)

    def _settle(self, state: State) -> Moves:
        """After the commit, or when it is not known."""
        moved = state.owner != state.side
        if state.at == LOST:
            if Guard.STATE_ROW in self.off:
                step = Step("it is taken for a failure", "replicator.moves:Moves._take_back")
                yield step, self._taken_back(state, 1 - state.side)
            elif state.server == NONE or Guard.STATE_ROW_SETTLED in self.off:
                words = f"the state row says that ownership has {'' if moved else 'not '}moved"
                reached = state._replace(at=COMMITTED) if moved else self._taken_back(state, 1 - state.side)
                yield Step(words, "replicator.postgres.ownership:read_ownership"), reached
        if state.at == COMMITTED:
            yield from self._after_commit(state)

    def _after_commit(self, state: State) -> Moves:
        owner = state.owner
        if not state.guards[state.side]:
            yield (
                Step("the old owner's tables are guarded"),
                state._replace(guards=_put(state.guards, state.side, True)),
            )
        elif not state.opened:
            yield Step("the new owner's tables are opened", "replicator.ownership:activate"), self._open(state)
        elif not state.marked:
            yield Step("the start marker is sent"), _logged(state._replace(marked=True), owner, -state.epoch)
        else:
            pipes = _put(state.pipes, state.side, None)
            settled = state._replace(at=FOLLOWING, moving=False, still=False, pipes=pipes, side=owner)
            yield Step("the old stream is dropped", "replicator.moves:Moves._retire"), settled

    def _taken_back(self, state: State, other: int) -> State:
        pipes = _put(state.pipes, other, None)
        return state._replace(at=FOLLOWING, moving=False, still=False, pipes=pipes)

    def _open(self, state: State) -> State:
        opened = state._replace(opened=True, guards=_put(state.guards, state.owner, False))
        if Guard.MARKER_WITH_OPENING in self.off:
            return opened._replace(marked=False)
        return _logged(opened, state.owner, -state.epoch)

    # ---- the server, and the end of a daemon

    def _server(self, state: State) -> Moves:
        if state.server == COMMITTING:
            new = 1 - state.side
            moved = state._replace(server=NONE, locked=None, owner=new, epoch=state.epoch + 1, opened=False)
            if Guard.GUARDS_WITH_ROW not in self.off:
                moved = moved._replace(guards=_put(state.guards, state.side, True))
            yield Step("the commit takes effect"), self._open(moved) if self.together else moved
        if state.server != NONE and state.at in (LOST, DOWN, FOLLOWING):
            yield Step("the server rolls the cutover back"), state._replace(server=NONE, locked=None)
        if state.server == WRITTEN and state.at in (DOWN, FOLLOWING):
            yield Step("the old daemon commits the cutover"), state._replace(server=COMMITTING)

    def _crash(self, state: State) -> Moves:
        down = state._replace(at=DOWN, still=False, crashes=state.crashes - 1)
        yield Step("the daemon dies, or loses its lease"), down

    def _restart(self, state: State) -> Moves:
        if state.server != NONE and Guard.CUTOVER_FENCE not in self.off:
            return
        resumes = "replicator.session:Session._resume"
        settles = "replicator.moves:Moves.settle"
        if not state.moving:
            yield Step("a new daemon starts", resumes), state._replace(at=FOLLOWING)
        elif state.owner != state.side:
            # of the two streams, it starts only the new one
            moved = state._replace(at=COMMITTED, still=True)
            yield Step("a new daemon finds that ownership has moved", settles), moved
        else:
            back = self._taken_back(state, 1 - state.side)
            yield Step("a new daemon finds that nothing has moved", settles), back


def _shadowed(state: State) -> bool:
    """The active stream has not reached its start marker yet."""
    pipe = state.pipes[state.owner]
    return pipe is None or bool(pipe.waits_for)


def _logged(state: State, side: int, entry: int) -> State:
    return state._replace(logs=_put(state.logs, side, (*state.logs[side], entry)))


def _put(pair: tuple[V, V], side: int, value: V) -> tuple[V, V]:
    return (value, pair[1]) if side == 0 else (pair[0], value)
