"""What is searched: every scope with all guards on, and each guard switched off where that goes wrong soonest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.model import copying, moving
from tests.model.copying import Copying, histories
from tests.model.kinds import LOGGED_OR_READ, Kind
from tests.model.moving import Moving
from tests.model.search import Result, search

Guard = copying.Guard | moving.Guard
Subject = Literal["copying", "moving"]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """All that can happen within some bounds, with all guards on."""

    name: str
    models: Sequence[Copying | Moving]
    quick: bool = True
    """Small enough for every run of the tests."""

    @property
    def subject(self) -> Subject:
        """Which of the two models it is."""
        return "moving" if isinstance(self.models[0], Moving) else "copying"

    def search(self) -> Result[Any]:
        """All models' states together, or the first wrong one."""
        states = 0
        for model in self.models:
            found: Result[Any] = search(model.start, model.moves, model.judge)
            if found.wrong is not None:
                return found
            states += found.states
        return Result(states=states)


def _copying(
    length: int, *, chunks: int, fine: bool, quick: bool = True, kinds: Sequence[Kind] = LOGGED_OR_READ
) -> Scope:
    models = [
        Copying(kind, history, chunks=chunks, fine=fine) for kind in kinds for history in histories(kind, length)
    ]  # fmt: skip
    size = f"{length} transaction{'s' * (length > 1)}, {chunks} chunk{'s' * (chunks > 1)}, 1 death"
    what = kinds[0].value if len(kinds) == 1 else "a table or a query, key computed or remembered"
    steps = "every step" if fine else "steps joined that nothing comes between"
    return Scope(name=f"copying: {what}, {size}, {steps}", models=models, quick=quick)


def _moving(writes: int, deaths: int, *, together: bool, quick: bool = True) -> Scope:
    where = "in one database" if together else "in two databases"
    size = f"{writes} writes, 3 moves of ownership there and back, {deaths} death{'s' * (deaths > 1)}"
    models = [Moving(kind, together=together, writes=writes, moves_of_ownership=3, crashes=deaths) for kind in Kind]
    return Scope(name=f"moving: every kind of transform, {where}, {size}", models=models, quick=quick)


SCOPES: Final = (
    _copying(1, chunks=2, fine=True),
    _copying(2, chunks=1, fine=True, kinds=[Kind.TABLE]),
    _copying(2, chunks=1, fine=True, kinds=[Kind.QUERY]),
    _copying(2, chunks=1, fine=True, kinds=[Kind.TAGS]),
    _copying(2, chunks=1, fine=True, kinds=[Kind.QUERY_TAGS]),
    _copying(2, chunks=1, fine=True, kinds=[Kind.PART_TAGS]),
    _moving(3, 1, together=True),
    _moving(3, 1, together=False),
    _moving(4, 2, together=True, quick=False),
    _moving(4, 2, together=False, quick=False),
    _copying(2, chunks=2, fine=True, quick=False),
    _copying(3, chunks=1, fine=False, quick=False),
)


@dataclass(frozen=True, kw_only=True)
class Without:
    """One guard switched off, or several that stand in for each other."""

    guards: tuple[Guard, ...]
    stands_in: Guard | None = None
    """The guard that alone is enough: then nothing goes wrong."""

    @property
    def subject(self) -> Subject:
        """Which of the two models has them."""
        return "moving" if isinstance(self.guards[0], moving.Guard) else "copying"

    def search(self, transactions: int = 2) -> Result[Any]:
        """The shortest way to something wrong, for good if there is one; without any, all states.

        :param transactions: the longest histories that are searched.
        """
        states = 0
        for models in self._rounds(transactions):
            best: Result[Any] | None = None
            for model in models:
                found: Result[Any] = search(model.start, model.moves, model.judge)
                states += found.states
                if found.wrong and (best is None or len(found.steps) < len(best.steps)):
                    best = found
            if best is not None:
                return best
        return Result(states=states)

    def _rounds(self, transactions: int) -> Iterator[list[Copying] | list[Moving]]:
        """From small to large."""
        if any(isinstance(guard, moving.Guard) for guard in self.guards):
            off = frozenset(guard for guard in self.guards if isinstance(guard, moving.Guard))
            for kind in Kind:
                yield [Moving(kind, off, together=together) for together in (True, False)]
            return
        switched = frozenset(guard for guard in self.guards if isinstance(guard, copying.Guard))
        for length in range(1, transactions + 1):
            for kind in Kind:
                yield [Copying(kind, history, switched, lasting=True) for history in histories(kind, length)]


INSTEAD: Final[dict[Guard, Guard]] = {
    copying.Guard.ABSENT: copying.Guard.TOUCHES,
    copying.Guard.START_STORED: copying.Guard.SKIP_STORED,
    copying.Guard.SKIP_STORED: copying.Guard.START_STORED,
}
"""Guards that are a second line: without them, the other one is enough."""

ALL_GUARDS: Final[tuple[Guard, ...]] = (*copying.Guard, *moving.Guard)

WITHOUT: Final = (
    *(Without(guards=(guard,), stands_in=INSTEAD.get(guard)) for guard in ALL_GUARDS),
    Without(guards=(copying.Guard.START_STORED, copying.Guard.SKIP_STORED)),
)
