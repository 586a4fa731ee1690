"""Verification, and rows that are refused: what opens the gate of a move, and what must keep it shut (invariant I7).

Two source rows and their two target rows, in a pass of two chunks. The application writes to them, to one or to both
at a time; values are the numbers of its transactions. Once in a run something goes wrong: a row is written wrongly, or
the target refuses it. Sets of keys are bit masks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.model.compared import BAD, Guard, Look, State
from tests.model.search import Step

KEYS: Final = (0, 1)
CHANGES: Final = (0b01, 0b10, 0b11)
ROOM: Final = 1
"""So many touched keys are kept in memory."""


Moves = Iterator[tuple[Step, State]]


@dataclass(frozen=True)
class Verifying:
    """The model, with some guards switched off."""

    off: frozenset[Guard] = frozenset()
    writes: int = 2
    faults: int = 1
    crashes: int = 1

    @property
    def start(self) -> State:
        """All rows are copied; the daemon has just started."""
        return State(faults=self.faults, crashes=self.crashes)

    # ---- what must hold

    def judge(self, state: State) -> str | None:
        """What a state breaks."""
        if state.alarm:
            return "I7: a row is said to diverge that is only on its way"
        if state.moved and (BAD in state.target or state.target != state.source):
            return "I7: ownership moves although a row is not what it should be"
        for key in KEYS:
            is_applied = state.target[key] == self._value(state, key)
            noted = (state.quarantined | state.owed) >> key & 1
            if state.target[key] != BAD and not is_applied and not noted:
                return "I7: a change is neither applied nor in quarantine"
            if is_applied and state.quarantined >> key & 1:
                return "I7: a row is in quarantine that is written"
        return None

    def _value(self, state: State, key: int) -> int:
        """What a target row should hold as far as the stream has come."""
        changes = [number for number, mask in enumerate(state.log[: state.applied], 1) if mask >> key & 1]
        return changes[-1] if changes else 0

    # ---- what can happen

    def moves(self, state: State) -> Moves:
        """All that can happen next."""
        if state.moved:
            return
        yield from self._application(state)
        yield from self._apply(state)
        yield from self._mend(state)
        yield from self._look(state) if state.look else self._begin(state)
        yield from self._cutover(state)
        if state.crashes:
            anew = State(
                state.faults, state.crashes - 1, state.source, state.log, state.target, state.applied, state.quarantined
            )
            chunk = state.chunk if Guard.PASS_ANEW in self.off else 0
            yield (
                Step("the daemon dies, a new one starts", "replicator.daemon.session:Session.run"),
                anew._replace(chunk=chunk),
            )

    def _application(self, state: State) -> Moves:
        if len(state.log) == self.writes or (state.locked and Guard.FINAL_HELD not in self.off):
            return
        number = len(state.log) + 1
        for mask in CHANGES:
            source = tuple(number if mask >> key & 1 else state.source[key] for key in KEYS)
            yield (
                Step(f"transaction {number} changes {_rows(mask)}"),
                state._replace(source=(source[0], source[1]), log=(*state.log, mask)),
            )

    def _apply(self, state: State) -> Moves:
        for end in range(state.applied + 1, len(state.log) + 1):
            changed = 0
            for mask in state.log[state.applied : end]:
                changed |= mask
            step = "replicator.apply.work:Work.apply"
            yield Step(f"the applier writes up to {end}", step), self._written(state, end, changed)
            for key in KEYS if state.faults else ():
                if changed >> key & 1:
                    words = f"the applier writes up to {end}, row {key} wrongly"
                    wrong = self._written(state, end, changed)
                    yield Step(words), wrong._replace(target=_put(wrong.target, key, BAD), faults=state.faults - 1)
                    words = f"the applier writes up to {end}, all but row {key}, which is refused"
                    yield Step(words, "replicator.apply.search:Search.run"), self._refused(state, end, changed, key)
        if state.owed:
            noted = state._replace(quarantined=state.quarantined | state.owed, owed=0)
            yield Step("the refused row is noted", "replicator.postgres.control.quarantine:Quarantine.keep"), noted

    def _written(self, state: State, end: int, changed: int, but: int = 0) -> State:
        """A batch up to there, of which some rows are not written. All that it is about is touched."""
        reached = state._replace(applied=end)
        for key in KEYS:
            if changed >> key & 1:
                reached = self._touched(reached, key)
                if not but >> key & 1:
                    target = _put(reached.target, key, self._value(reached, key))
                    kept = -1 if Guard.RELEASED in self.off else ~(1 << key)
                    reached = reached._replace(target=target, quarantined=reached.quarantined & kept)
        return reached

    def _refused(self, state: State, end: int, changed: int, key: int) -> State:
        but = changed if Guard.ONE_ROW in self.off else 1 << key
        reached = self._written(state, end, changed, but)._replace(faults=state.faults - 1)
        if Guard.QUARANTINED_WITH_PROGRESS in self.off:
            return reached._replace(owed=1 << key)
        return reached._replace(quarantined=reached.quarantined | 1 << key)

    def _mend(self, state: State) -> Moves:
        """What is in quarantine is tried again, once the row or the transform is mended."""
        for key in KEYS:
            if state.quarantined >> key & 1 and state.drained:
                target = _put(state.target, key, state.source[key])
                released = state._replace(target=target, quarantined=state.quarantined & ~(1 << key))
                step = Step(f"row {key} is mended, and tried again", "replicator.apply.work:Work.derive_again")
                yield step, self._touched(released, key)

    # ---- touches

    def _touched(self, state: State, key: int) -> State:
        if state.look is not None:
            touched = state.look.touched | 1 << key
            state = state._replace(
                look=state.look._replace(touched=touched, fresh=state.look.fresh and state.look.key != key)
            )
        if Guard.WAITS in self.off or (Guard.KEEPING in self.off and state.chunk < len(KEYS)):
            return state
        if Guard.SPILLED_AGAIN in self.off and key in state.disk:
            return state
        return self._waits(state, key)

    def _waits(self, state: State, key: int) -> State:
        memory = (*(each for each in state.memory if each != key), key)
        while len(memory) > ROOM:
            oldest, *left = memory
            memory = tuple(left)
            if Guard.SPILLED not in self.off:
                state = state._replace(disk=(*state.disk, oldest))
            if state.look is not None:
                spoiled = Guard.LOOK_SPOILED not in self.off
                touched = state.look.touched & ~(1 << oldest)
                state = state._replace(look=state.look._replace(touched=touched, spoiled=spoiled))
        return state._replace(memory=memory)

    # ---- the verifier

    def _begin(self, state: State) -> Moves:
        if state.chunk < len(KEYS):
            read = Look("chunk", state.chunk, state.source[state.chunk])
            step = Step(f"row {state.chunk} is read in the pass", "replicator.verify.verifier:Verifier._sweep")
            yield step, state._replace(look=read)
        waiting = (state.disk or state.memory)[:1]
        for key in {*waiting, *(key for key in KEYS if state.found >> key & 1)}:
            equal = state.source[key] == state.target[key]
            words = f"row {key}, which waits, is looked at: it {'is equal' if equal else 'differs'}"
            look = Look("glance" if equal else "differs", key, from_disk=state.disk[:1] == (key,))
            yield Step(words, "replicator.verify.recheck:Recheck.glance"), state._replace(look=look)

    def _look(self, state: State) -> Moves:
        look = state.look
        assert look is not None
        match look.at:
            case "chunk":
                words = f"row {look.key} is compared in the pass"
                step = Step(words, "replicator.verify.verifier:Verifier._compare_chunk")
                yield step, self._compared_in_pass(state._replace(look=None, chunk=state.chunk + 1), look)
            case "glance":
                step = Step(f"row {look.key} waits no longer", "replicator.core.dirty_keys:DirtyKeys.settle")
                cleared = state._replace(look=None, found=state.found & ~(1 << look.key))
                yield step, self._settled(cleared, look)
            case "differs":
                again = Look("again", look.key, state.source[look.key], len(state.log))
                if look.from_disk:  # it goes on waiting in memory
                    memory = state.memory if look.key in state.memory else (look.key, *state.memory)
                    state = state._replace(disk=state.disk[1:], memory=memory)
                step = Step(f"row {look.key} is read again", "replicator.verify.recheck:Recheck.beyond_doubt")
                yield step, state._replace(look=again)
            case "again" if state.applied >= look.read_at or Guard.READ_APPLIED in self.off:
                yield Step(f"row {look.key} is compared again"), self._compared_again(state._replace(look=None), look)

    def _compared_in_pass(self, state: State, look: Look) -> State:
        if look.value == state.target[look.key]:
            return state
        if Guard.LOOKED_AGAIN in self.off:
            return self._diverges(state, look.key)
        return state if Guard.DIFFERING_WAITS in self.off else self._waits(state, look.key)

    def _compared_again(self, state: State, look: Look) -> State:
        moved = look.touched >> look.key & 1 and Guard.WINDOW not in self.off
        if moved or look.spoiled:
            return state
        state = self._settled(state, look)
        if look.value == state.target[look.key] or state.quarantined >> look.key & 1:
            return state._replace(found=state.found & ~(1 << look.key))
        return self._diverges(state, look.key)

    def _diverges(self, state: State, key: int) -> State:
        alarm = state.alarm or state.target[key] != BAD
        return state._replace(found=state.found | 1 << key, alarm=alarm)

    def _settled(self, state: State, look: Look) -> State:
        """A key that was compared waits no longer where it was found; touched since, it waits there anew."""
        anywhere = Guard.SETTLED_WHERE_FOUND in self.off and state.disk[:1] == (look.key,)
        if look.from_disk or anywhere:
            return state._replace(disk=state.disk[1:])
        if look.fresh or Guard.SETTLED_AS_TOUCHED in self.off:
            return state._replace(memory=tuple(each for each in state.memory if each != look.key))
        return state

    # ---- the cutover

    def _cutover(self, state: State) -> Moves:
        if not state.locked:
            if self._gate(state):
                locked = state._replace(locked=True)
                yield Step("the writers are held", "replicator.switchover.strategy:SwitchoverStrategy.hold"), locked
        elif state.drained and state.look is None:
            keys = {*state.memory, *(() if Guard.FINAL_ON_DISK in self.off else state.disk)}
            differing = [key for key in keys if state.source[key] != state.target[key]]
            if Guard.FINAL in self.off or not differing:
                settled = state._replace(memory=(), disk=(), look=Look("final", 0))
                yield Step("the last comparison finds nothing", "replicator.verify.settling:Settling.final"), settled
            else:
                found = state
                for key in differing:
                    found = self._diverges(found, key) if not found.quarantined >> key & 1 else found
                yield Step("the last comparison finds something"), found._replace(locked=False)
        elif state.look is not None and state.look.at == "final":
            held = state._replace(look=None, locked=False)
            moved = held._replace(moved=True) if self._gate(held) else held
            yield (
                Step(
                    "ownership moves" if moved.moved else "it is given up",
                    "replicator.switchover.cutover:Cutover._move",
                ),
                moved,
            )

    def _gate(self, state: State) -> bool:
        """Whether every row has been compared, none diverges, and none is in quarantine."""
        quarantined = state.quarantined and Guard.QUARANTINE_SHUTS not in self.off
        found = state.found and Guard.FINDINGS not in self.off
        return state.chunk == len(KEYS) and not found and not quarantined


def _put(pair: tuple[int, int], key: int, value: int) -> tuple[int, int]:
    return (value, pair[1]) if key == 0 else (pair[0], value)


def _rows(mask: int) -> str:
    return {0b01: "row 0", 0b10: "row 1", 0b11: "both rows"}[mask]
