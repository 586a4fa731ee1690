"""Visits every state that can be reached, nearest first: so the way to the first wrong one is among the shortest."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple):
    """What happened, in words, and which function of the engine does it: ``module:name``, or nothing of ours."""

    words: str
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Result(Generic[S]):
    """What a search has found."""

    states: int
    """Different states visited."""
    wrong: str | None = None
    """What the first wrong state breaks; None when there is none."""
    steps: tuple[Step, ...] = ()
    """A shortest way there."""
    last: S | None = None


def search(start: S, moves: Callable[[S], Iterable[tuple[Step, S]]], judge: Callable[[S], str | None]) -> Result[S]:
    """Visit every state that the moves lead to, until one is wrong.

    :param judge: says what a state breaks; None when nothing.
    """
    came_from: dict[S, tuple[S, Step] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        wrong = judge(state)
        if wrong is not None:
            return Result(states=len(came_from), wrong=wrong, steps=_way(state, came_from), last=state)
        for step, reached in moves(state):
            if reached not in came_from:
                came_from[reached] = (state, step)
                waiting.append(reached)
    return Result(states=len(came_from))


def _way(state: S, came_from: dict[S, tuple[S, Step] | None]) -> tuple[Step, ...]:
    steps: list[Step] = []
    while (before := came_from[state]) is not None:
        state, step = before
        steps.append(step)
    return tuple(reversed(steps))
