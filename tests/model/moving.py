"""The cutover and the way back: who may write, who follows, and what a crash or a lost reply leaves (invariant I8).

One row on two sides, 0 and 1; the application counts up in it, deletes it, and may try either side at any time. A move
of ownership is the same procedure there and back. A log holds what was written on its side, by whomever, and markers.
"""

from dataclasses import dataclass
from typing import Final

from tests.model.closed import Closed, Guard
from tests.model.following import CHANGED, GONE, MESSAGE, Pipe
from tests.model.kinds import Kind
from tests.model.search import Step
from tests.model.sides import ATTEMPT, At, Moves, Server, State, put

LOG_LENGTH: Final = 9
"""Where two streams that feed each other are cut off."""


@dataclass(frozen=True)
class Moving(Closed):
    """The model, with some guards switched off.

    :param kind: of the transforms, both ways.
    :param together: both sides are one database, so the new owner's tables open in the transaction that moves.
    """

    kind: Kind = Kind.TABLE
    together: bool = True
    writes: int = 2
    moves_of_ownership: int = 2
    crashes: int = 1

    @property
    def start(self) -> State:
        """The old schema owns the data, and is followed."""
        return State(crashes=self.crashes, lapses=self.lapses, resting=(False, Guard.RESTING not in self.off))

    # ---- what must hold

    def judge(self, state: State) -> str | None:
        """What a state breaks."""
        owner, other = state.owner, 1 - state.owner
        if not any(state.guards):
            return "I8: both sides are open to writers"
        if state.values[owner] != state.acknowledged:
            return "I8: the owner has not got what the application wrote last"
        if state.miscounted[owner]:
            return "I8: a trigger of the application's has fired for the daemon's write, or not for its own"
        if not state.guards[owner] and state.locked != owner and state.pipes[owner] is None:
            return "I8: the application writes where nothing follows"
        known = state.lapsed or state.closing or state.suspect
        settled = state.at == At.FOLLOWING and state.server == Server.NONE and not known
        if settled and not state.shadowed and state.drained(owner) and state.values[other] != state.acknowledged:
            if state.acknowledged == GONE:
                return "I8: a row that is deleted stays on the other side, and nothing is on its way"
            return "I8: the other side is not in step, and nothing is on its way"
        if all(state.guards) and next(self.moves(state), None) is None:
            return "I8: nobody may write, and nothing goes on"
        return None

    # ---- what can happen

    def moves(self, state: State) -> Moves:
        """All that can happen next."""
        yield from self._application(state)
        yield from self.strangers(state)
        yield from self._server(state)
        if state.at == At.DOWN:
            yield from self._restart(state)
            return
        yield from self._streams(state)
        yield from self.closed(state)
        yield from self._cutover(state)
        yield from self._settle(state)
        if state.crashes:
            yield from self._crash(state)

    def _application(self, state: State) -> Moves:
        if state.writing is not None:
            side, number = state.writing, state.written + 1
            yield Step(f"the application commits {number} on side {side}"), self._committed(state, side, number)
            if state.values[side] != GONE:
                yield Step(f"the application commits a deletion on side {side}"), self._committed(state, side, GONE)
        elif state.written < self.writes:
            for side in (0, 1):
                if not state.guards[side] and state.locked != side:
                    yield Step(f"the application writes on side {side}"), state._replace(writing=side)

    def _committed(self, state: State, side: int, value: int) -> State:
        state = state._replace(written=state.written + 1, acknowledged=value, writing=None)
        counted = put(state.miscounted, side, state.miscounted[side] or state.resting[side])
        return self._write(state._replace(miscounted=counted), side, value)

    def _write(self, state: State, side: int, value: int) -> State:
        """The row gets a value on one side, or goes."""
        written = state._replace(values=put(state.values, side, value))
        return written.logged(side, CHANGED if self.kind.reads_again(gone=value == GONE) else value)

    def _streams(self, state: State) -> Moves:
        for side, pipe in enumerate(state.pipes):
            if pipe is None or state.drained(side) or (state.still and side == state.side):
                continue
            entry, other = state.logs[side][pipe.position], 1 - side
            if entry == -pipe.waits_for and state.epoch < pipe.waits_for and Guard.MARKER_CHECKED not in self.off:
                entry = MESSAGE
            taken = pipe.take(self.kind, side, entry, state.values[side], learns=Guard.LEARNING not in self.off)
            reached = state._replace(pipes=put(state.pipes, side, taken.pipe))
            if taken.value is not None and not taken.value == state.values[other] == GONE:
                if len(state.logs[other]) == LOG_LENGTH:
                    continue
                # What a trigger has written comes in the stream too; if it fires for our write, it has done so twice.
                counted = put(reached.miscounted, other, not reached.resting[other])
                reached = self._write(reached._replace(miscounted=counted), other, taken.value)
            yield Step(taken.words, "replicator.pipeline.pipeline:Pipeline._apply"), reached

    def _cutover(self, state: State) -> Moves:
        owner, other = state.side, 1 - state.side
        if state.at == At.FOLLOWING and state.epoch < self.moves_of_ownership and not state.shadowed:
            step = Step(
                "the opposite stream is prepared", "replicator.daemon.switchovers:Switchovers._prepare_opposite"
            )
            yield step, self._prepared(state)
        if state.at == At.PREPARED:
            step = Step("what the way back must remember is read", "replicator.pipeline.pipeline:Pipeline.backfill")
            yield step, self._filled(state, other)
        yield from self._attempt(state, owner, other)
        if state.at in (At.PREPARED, At.FILLED, *ATTEMPT):
            ended = state._replace(server=Server.NONE, locked=None, still=False)
            step = Step("it takes too long and is given up", "replicator.daemon.switchovers:Switchovers._take_back")
            yield step, self._taken_back(ended, other)
            if state.at in ATTEMPT:
                step = Step(
                    "the attempt is given up, for another one", "replicator.switchover.cutover:Cutover._release"
                )
                yield step, ended._replace(at=At.FILLED)

    def _attempt(self, state: State, owner: int, other: int) -> Moves:
        match state.at:
            case At.FILLED if self._may_lock(state, owner, other):
                lock = None if Guard.LOCK in self.off else owner
                locked = state._replace(at=At.LOCKED, server=Server.OPEN, locked=lock)
                yield Step("the writers are locked out", "replicator.postgres.locking.locks:lock_tables"), locked
            case At.LOCKED if Guard.DRAIN in self.off or state.drained(owner):
                lock = None if Guard.LOCK_HELD in self.off else state.locked
                drained = Step("the stream is drained", "replicator.switchover.cutover:Cutover._drain")
                yield drained, state._replace(at=At.DRAINED, locked=lock)
            case At.DRAINED:
                frozen = state._replace(at=At.FROZEN, still=Guard.STANDSTILL not in self.off)
                yield Step("the stream stands still", "replicator.pipeline.write_gate:WriteGate.pause"), frozen
            case At.FROZEN if state.drained(other) or self.off & {Guard.DRAIN_OPPOSITE, Guard.DRAIN_OPPOSITE_LAST}:
                ready = Step("the opposite stream is drained", "replicator.switchover.cutover:Cutover.drain_opposite")
                yield ready, state._replace(at=At.READY)
            case At.READY if self.lapses:
                if not self.first_obstacle(state):
                    looked = Step(
                        "the closed side is locked, and looked at", "replicator.switchover.transfer:open_tables"
                    )
                    yield looked, state._replace(at=At.LOOKED)
            case At.READY | At.LOOKED if not (self.lapses and self.second_obstacle(state)):
                moved = state._replace(at=At.MOVED, server=Server.WRITTEN)
                yield Step("guards and state row are written", "replicator.switchover.transfer:transfer"), moved
            case At.MOVED:
                sent = Step("the commit is sent", "replicator.switchover.cutover:Cutover._commit")
                yield sent, state._replace(at=At.SENT, server=Server.COMMITTING)

    def _may_lock(self, state: State, owner: int, other: int) -> bool:
        """Whether no writer is in the way; the drain before the lock makes the one under it short, and no more."""
        free = state.writing != owner or Guard.LOCK in self.off
        return free and (state.drained(other) or Guard.DRAIN_OPPOSITE_LAST not in self.off)

    def _prepared(self, state: State) -> State:
        other = 1 - state.owner
        opposite = Pipe(len(state.logs[other]), 0 if Guard.SHADOW in self.off else state.epoch + 1)
        at = At.PREPARED if self.kind.remembers and Guard.FILLING not in self.off else At.FILLED
        return state._replace(at=at, moving=True, side=state.owner, pipes=put(state.pipes, other, opposite))

    def _filled(self, state: State, other: int) -> State:
        pipe = state.pipes[other]
        assert pipe is not None
        filled = pipe._replace(knows=pipe.knows or state.values[other] != GONE)
        return state._replace(at=At.FILLED, pipes=put(state.pipes, other, filled))

    def _settle(self, state: State) -> Moves:
        """After the commit, or when it is not known."""
        moved = state.owner != state.side
        if state.at == At.SENT:
            if state.server == Server.NONE:
                yield Step("the daemon hears of it"), state._replace(at=At.COMMITTED)
            yield Step("the connection is lost"), state._replace(at=At.LOST)
        if state.at == At.LOST:
            if Guard.STATE_ROW in self.off:
                step = Step("it is taken for a failure", "replicator.daemon.switchovers:Switchovers._take_back")
                yield step, self._taken_back(state, 1 - state.side)
            elif state.server == Server.NONE or Guard.STATE_ROW_SETTLED in self.off:
                words = f"the state row says that ownership has {'' if moved else 'not '}moved"
                reached = state._replace(at=At.COMMITTED) if moved else self._taken_back(state, 1 - state.side)
                yield Step(words, "replicator.postgres.control.ownership:read_ownership"), reached
        if state.at == At.COMMITTED:
            yield from self._after_commit(state)

    def _after_commit(self, state: State) -> Moves:
        owner = state.owner
        if not state.guards[state.side]:
            yield (
                Step("the old owner's tables are guarded"),
                state._replace(guards=put(state.guards, state.side, True)),
            )
        elif not state.resting[state.side] and Guard.RESTING not in self.off:
            rest = Step("the triggers are laid to rest", "replicator.postgres.guarding.resting:lay_to_rest")
            yield rest, state._replace(resting=put(state.resting, state.side, True))
        elif not state.opened:
            yield (
                Step("the new owner's tables are opened", "replicator.switchover.handover:activate"),
                self._open(state),
            )
        elif state.resting[owner]:
            back = Step("the triggers are given back", "replicator.postgres.guarding.resting:give_back")
            yield back, state._replace(resting=put(state.resting, owner, False))
        elif not state.marked:
            yield Step("the start marker is sent"), state._replace(marked=True).logged(owner, -state.epoch)
        else:
            pipes = put(state.pipes, state.side, None)
            settled = state._replace(at=At.FOLLOWING, moving=False, still=False, pipes=pipes, side=owner)
            yield Step("the old stream is dropped", "replicator.daemon.switchovers:Switchovers._retire"), settled

    def _taken_back(self, state: State, other: int) -> State:
        pipes = put(state.pipes, other, None)
        return state._replace(at=At.FOLLOWING, moving=False, still=False, pipes=pipes)

    def _open(self, state: State) -> State:
        opened = state._replace(opened=True, guards=put(state.guards, state.owner, False))
        if Guard.AWAKE_WITH_OPENING not in self.off:
            opened = opened._replace(resting=put(state.resting, state.owner, False))
        if Guard.MARKER_WITH_OPENING in self.off:
            return opened._replace(marked=False)
        return opened.logged(state.owner, -state.epoch)

    # ---- the server, and the end of a daemon

    def _server(self, state: State) -> Moves:
        if state.server == Server.COMMITTING:
            new = 1 - state.side
            moved = state._replace(server=Server.NONE, locked=None, owner=new, epoch=state.epoch + 1, opened=False)
            if Guard.GUARDS_WITH_ROW not in self.off:
                moved = moved._replace(guards=put(state.guards, state.side, True))
            if not self.off & {Guard.RESTING, Guard.RESTING_WITH_GUARDS}:
                moved = moved._replace(resting=put(state.resting, state.side, True))
            moved = moved._replace(lapsed=False)  # what was closed is open, and what was open is closed now
            yield Step("the commit takes effect"), self._open(moved) if self.together else moved
        if state.server != Server.NONE and state.at in (At.LOST, At.DOWN, At.FOLLOWING):
            yield Step("the server rolls the cutover back"), state._replace(server=Server.NONE, locked=None)
        if state.server == Server.WRITTEN and state.at in (At.DOWN, At.FOLLOWING):
            yield Step("the old daemon commits the cutover"), state._replace(server=Server.COMMITTING)

    def _crash(self, state: State) -> Moves:
        # The next one compares all rows anew, whatever happened.
        down = state._replace(
            at=At.DOWN, still=False, crashes=state.crashes - 1, suspect=bool(self.lapses), closing=False
        )
        yield Step("the daemon dies, or loses its lease"), down

    def _restart(self, state: State) -> Moves:
        if state.server != Server.NONE and Guard.CUTOVER_FENCE not in self.off:
            return
        resumes = "replicator.daemon.session:Session._resume"
        settles = "replicator.daemon.switchovers:Switchovers.settle"
        if not state.moving:
            yield Step("a new daemon starts", resumes), state._replace(at=At.FOLLOWING)
        elif state.owner != state.side:
            # of the two streams, it starts only the new one
            moved = state._replace(at=At.COMMITTED, still=True)
            yield Step("a new daemon finds that ownership has moved", settles), moved
        else:
            back = self._taken_back(state, 1 - state.side)
            yield Step("a new daemon finds that nothing has moved", settles), back
