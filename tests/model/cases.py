"""What is searched: every scope with all guards on, and each guard switched off where that goes wrong soonest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.model import closed, compared, copying
from tests.model.copying import Copying, histories
from tests.model.kinds import LOGGED_OR_READ, Kind
from tests.model.moving import Moving
from tests.model.search import Result, search
from tests.model.verifying import Verifying

Guard = copying.Guard | closed.Guard | compared.Guard
Model = Copying | Moving | Verifying
Subject = Literal["copying", "moving", "verifying"]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """All that can happen within some bounds, with all guards on."""

    name: str
    models: Sequence[Model]
    quick: bool = True
    """Small enough for every run of the tests."""

    @property
    def subject(self) -> Subject:
        """Which of the models it is."""
        return SUBJECTS[type(self.models[0])]

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
    length: int,
    *,
    chunks: int,
    fine: bool,
    quick: bool = True,
    kinds: Sequence[Kind] = LOGGED_OR_READ,
    room: int = len(copying.KEYS),
) -> Scope:
    models = [
        Copying(kind, history, chunks=chunks, fine=fine, room=room)
        for kind in kinds
        for history in histories(kind, length)
    ]
    size = f"{length} transaction{'s' * (length > 1)}, {chunks} chunk{'s' * (chunks > 1)}, 1 death"
    what = kinds[0].value if len(kinds) == 1 else "a table or a query, key computed or remembered"
    size += f", room for {room} touched key" if room < len(copying.KEYS) else ""
    steps = "every step" if fine else "steps joined that nothing comes between"
    return Scope(name=f"copying: {what}, {size}, {steps}", models=models, quick=quick)


SUBJECTS: Final[dict[type[Model], Subject]] = {Copying: "copying", Moving: "moving", Verifying: "verifying"}


def _moving(writes: int, deaths: int, *, together: bool, quick: bool = True) -> Scope:
    where = "in one database" if together else "in two databases"
    size = f"{writes} writes, 3 moves of ownership there and back, {deaths} death{'s' * (deaths > 1)}"
    models = [
        Moving(kind=kind, together=together, writes=writes, moves_of_ownership=3, crashes=deaths) for kind in Kind
    ]
    return Scope(name=f"moving: every kind of transform, {where}, {size}", models=models, quick=quick)


def _lapsing(writes: int, lapses: int, deaths: int, *, quick: bool = True) -> Scope:
    models = [
        Moving(kind=kind, together=together, writes=writes, lapses=lapses, crashes=deaths)
        for kind in (Kind.TABLE, Kind.QUERY)
        for together in (True, False)
    ]
    size = f"{writes} writes, 2 moves of ownership there and back, {_deaths(deaths)}"
    switched = f"guards and triggers of the closed side switched by somebody {'twice' if lapses == 2 else 'once'}"
    return Scope(name=f"moving: key computed, {switched}, {size}", models=models, quick=quick)


def _verifying(writes: int, deaths: int, *, quick: bool = True) -> Scope:
    size = f"{writes} transactions, 1 row refused or written wrongly, {_deaths(deaths)}"
    return Scope(name=f"verifying: {size}", models=[Verifying(writes=writes, crashes=deaths)], quick=quick)


def _deaths(number: int) -> str:
    return f"{number or 'no'} death{'s' * (number != 1)}"


SCOPES: Final = (
    _copying(1, chunks=2, fine=True),
    _copying(2, chunks=1, fine=True, kinds=[Kind.TABLE]),
    _copying(2, chunks=1, fine=True, kinds=[Kind.QUERY]),
    _copying(2, chunks=1, fine=True, kinds=[Kind.TAGS]),
    _copying(2, chunks=1, fine=True, kinds=[Kind.QUERY_TAGS]),
    _copying(2, chunks=1, fine=True, kinds=[Kind.PART_TAGS]),
    _copying(1, chunks=1, fine=True, room=1),
    _moving(3, 1, together=True),
    _moving(3, 1, together=False),
    _lapsing(2, 1, 1),
    _verifying(2, 1),
    _moving(4, 2, together=True, quick=False),
    _moving(4, 2, together=False, quick=False),
    _lapsing(2, 2, 1, quick=False),
    _verifying(3, 1, quick=False),
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
        """Which of the models has them."""
        by_kind: dict[type[Guard], Subject] = {
            copying.Guard: "copying", closed.Guard: "moving", compared.Guard: "verifying"
        }  # fmt: skip
        return by_kind[type(self.guards[0])]

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

    def _rounds(self, transactions: int) -> Iterator[Sequence[Model]]:
        """From small to large."""
        match self.subject:
            case "moving":
                off = frozenset(guard for guard in self.guards if isinstance(guard, closed.Guard))
                lapses = int(bool(off & LAPSES))
                for kind in Kind if transactions > 1 else (Kind.TABLE,):
                    yield [
                        Moving(kind=kind, off=off, together=together, lapses=lapses, crashes=1 - lapses)
                        for together in (True, False)
                    ]
            case "verifying":
                for deaths in (0, 1):
                    unsure = frozenset(guard for guard in self.guards if isinstance(guard, compared.Guard))
                    yield [Verifying(unsure, crashes=deaths)]
            case _:
                switched = frozenset(guard for guard in self.guards if isinstance(guard, copying.Guard))
                room = 1 if copying.Guard.WINDOW_SPOILED in switched else len(copying.KEYS)
                for length in range(1, transactions + 1):
                    for kind in Kind:
                        yield [
                            Copying(kind, history, switched, lasting=True, room=room)
                            for history in histories(kind, length)
                        ]


INSTEAD: Final[dict[Guard, Guard]] = {
    copying.Guard.ABSENT: copying.Guard.TOUCHES,
    copying.Guard.START_STORED: copying.Guard.SKIP_STORED,
    copying.Guard.SKIP_STORED: copying.Guard.START_STORED,
    closed.Guard.MARKER_SECRET: closed.Guard.MARKER_CHECKED,
    closed.Guard.MARKER_CHECKED: closed.Guard.MARKER_SECRET,
}
"""Guards that are a second line: without them, the other one is enough."""

LAPSES: Final = frozenset(guard for guard in closed.Guard if guard.name.startswith(("CLOSED", "SUSPECT")))
"""What shows only when somebody switches guards."""

ALL_GUARDS: Final[tuple[Guard, ...]] = (*copying.Guard, *closed.Guard, *compared.Guard)

WITHOUT: Final = (
    *(Without(guards=(guard,), stands_in=INSTEAD.get(guard)) for guard in ALL_GUARDS),
    Without(guards=(copying.Guard.START_STORED, copying.Guard.SKIP_STORED)),
    Without(guards=(closed.Guard.MARKER_SECRET, closed.Guard.MARKER_CHECKED)),
)
