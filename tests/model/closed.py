"""What guards a move of ownership; and the closed side: what strangers do there, and what the daemon does about it."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from tests.model.search import Step
from tests.model.sides import At, Moves, Server, State, put

STRAY: Final = 99
"""What somebody writes on the closed side."""


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
    LEARNING = "the opposite stream remembers nothing that comes before its start marker"
    FILLING = "the opposite pipeline does not read what was there before its slot was made"
    DRAIN_OPPOSITE = "ownership moves without waiting for what is in the opposite stream"
    DRAIN_OPPOSITE_LAST = "the opposite stream is drained before the lock, and not again when nothing more can come"
    MARKER_WITH_OPENING = "the start marker is sent after the new owner's tables are open"
    MARKER_SECRET = "anybody knows what the start marker will be, and can send it"
    MARKER_CHECKED = "the start marker is believed, whatever the state row says"
    RESTING = "the application's triggers go on where only the daemon writes"
    RESTING_WITH_GUARDS = "the triggers are laid to rest in a transaction of their own, after the guards"
    AWAKE_WITH_OPENING = "the triggers are given back in a transaction of their own, after the tables are open"
    CLOSED_AGAIN = "a guard that somebody has switched off is switched on again, and no row is compared"
    CLOSED_NOTED = "that all rows are to be compared is noted only after what was open is closed again"
    CLOSED_UNDER_LOCK = "before ownership moves it is not looked whether the closed side is still closed"
    CLOSED_FIRST = "that is looked at after it is asked whether rows wait to be compared"
    SUSPECT_SHUTS = "ownership moves while rows that may have changed past the guard wait to be compared"
    CUTOVER_FENCE = "a new daemon does not wait for a dead one's cutover, nor refuse one that has not begun"


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The part of the model that strangers have in it, with some guards switched off.

    :param lapses: how often somebody switches the guards of the closed side off, and the triggers on.
    """

    off: frozenset[Guard] = frozenset()
    lapses: int = 0

    def strangers(self, state: State) -> Moves:
        """What somebody does who may alter tables, or send messages."""
        closed = 1 - state.owner
        if self._reachable(state) and state.lapses and not state.lapsed:
            lapsed = state._replace(lapses=state.lapses - 1, lapsed=True, resting=put(state.resting, closed, False))
            yield Step(f"somebody switches the guards of side {closed} off, and the triggers on"), lapsed
        if self._reachable(state) and state.lapsed and state.values[closed] != STRAY:
            stray = state._replace(values=put(state.values, closed, STRAY))  # the way back, in shadow, learns nothing
            yield Step(f"somebody writes on side {closed}"), stray
        if Guard.MARKER_SECRET in self.off and state.pipes[closed] is not None:
            marker = -(state.epoch + 1)
            if marker not in state.logs[closed]:
                yield Step(f"somebody sends a start marker on side {closed}"), state.logged(closed, marker)

    def _reachable(self, state: State) -> bool:
        """Whether nobody holds the closed side's tables; between the last look and the opening, the cutover does."""
        held = self._holds(state) or state.server in (Server.WRITTEN, Server.COMMITTING)
        return state.guards[1 - state.owner] and state.opened and not held

    def _holds(self, state: State) -> bool:
        """Whether the cutover has locked the closed side, and looked."""
        return state.at == At.LOOKED and Guard.CLOSED_FIRST not in self.off

    def closed(self, state: State) -> Moves:
        """What the daemon does about what is not closed any more."""
        closed = 1 - state.owner
        if state.lapsed and not self._holds(state):
            rested = state._replace(lapsed=False, resting=put(state.resting, closed, True))
            again = rested._replace(suspect=state.suspect or Guard.CLOSED_AGAIN not in self.off)
            if Guard.CLOSED_NOTED in self.off:
                again = rested._replace(closing=True)
            yield Step(f"side {closed} is closed again", "replicator.switchover.closing:close_again"), again
        if state.closing:
            noted = state._replace(closing=False, suspect=True)
            yield (
                Step(
                    "it is noted that all rows are to be compared", "replicator.pipeline.pipeline:Pipeline.compare_all"
                ),
                noted,
            )
        if state.suspect and not state.lapsed and state.at == At.FOLLOWING and state.drained(state.owner):
            mended = state._replace(
                suspect=False,
                values=put(state.values, closed, state.values[state.owner]),
                miscounted=put(state.miscounted, closed, False),
            )
            yield Step("all rows are compared, and mended", "replicator.verify.verifier:Verifier.full_pass"), mended

    # ---- the last look

    def first_obstacle(self, state: State) -> bool:
        return self._is_suspect(state) if Guard.CLOSED_FIRST in self.off else self._is_open(state)

    def second_obstacle(self, state: State) -> bool:
        return self._is_open(state) if Guard.CLOSED_FIRST in self.off else self._is_suspect(state)

    def _is_open(self, state: State) -> bool:
        return state.lapsed and Guard.CLOSED_UNDER_LOCK not in self.off

    def _is_suspect(self, state: State) -> bool:
        return state.suspect and Guard.SUSPECT_SHUTS not in self.off
