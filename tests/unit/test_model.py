"""The model of the engine: it holds; without any of its guards it does not; and its steps are the code's."""

import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model.__main__ import PAGE, guard_line, scope_line
from tests.model.cases import ALL_GUARDS, SCOPES, WITHOUT, Scope, Without
from tests.model.closed import Guard
from tests.model.kinds import Kind
from tests.model.moving import Moving
from tests.model.search import Result, Step, search
from tests.model.verifying import Verifying

PACKAGE = Path(__file__).parents[2] / "replicator"
QUICK = [scope for scope in SCOPES if scope.quick]


@pytest.mark.parametrize("scope", QUICK, ids=lambda scope: scope.name)
def test_the_invariants_hold_in_every_state(scope: Scope) -> None:
    found = scope.search()
    assert found.wrong is None, [step.words for step in found.steps]
    line = scope_line(scope, found, 0).rsplit(" | ", 1)[0]
    assert line in PAGE.read_text(), "the page is out of date: python -m tests.model --write"


def test_the_page_has_a_line_for_each_scope() -> None:
    page = PAGE.read_text()
    assert [scope.name for scope in SCOPES if f"| {scope.name} |" not in page] == []


@pytest.mark.parametrize("without", WITHOUT, ids=lambda each: "+".join(guard.name for guard in each.guards))
def test_without_a_guard_something_goes_wrong(without: Without) -> None:
    found = _found(without)
    assert (found.wrong is not None) is (without.stands_in is None)
    assert guard_line(without, found) in PAGE.read_text(), "the page is out of date: python -m tests.model --write"


WAY_BACK = [
    (Guard.LEARNING, {Kind.TAGS, Kind.QUERY_TAGS, Kind.PART_TAGS}),
    (Guard.FILLING, {Kind.TAGS, Kind.QUERY_TAGS, Kind.PART_TAGS}),
    (Guard.DRAIN_OPPOSITE, {Kind.QUERY_TAGS, Kind.PART_TAGS}),
    (Guard.DRAIN_OPPOSITE_LAST, {Kind.QUERY_TAGS, Kind.PART_TAGS}),
]


@pytest.mark.parametrize(("guard", "kinds"), WAY_BACK, ids=[guard.name for guard, _ in WAY_BACK])
def test_what_the_way_back_must_know_depends_on_the_kind_of_transform(guard: Guard, kinds: set[Kind]) -> None:
    models = {kind: Moving(kind=kind, off=frozenset({guard})) for kind in Kind}
    found = {kind: search(model.start, model.moves, model.judge) for kind, model in models.items()}
    assert {kind for kind, each in found.items() if each.wrong} == kinds
    assert all("deleted stays" in each.wrong for each in found.values() if each.wrong)


def test_each_step_names_a_function_that_is_there() -> None:
    named = {step.where for step in _all_steps() if step.where}
    assert len(named) > 25
    for where in sorted(named):
        module, name = where.split(":")
        assert callable(functools.reduce(getattr, name.split("."), importlib.import_module(module))), where


def test_each_guard_is_named_where_it_stands_in_the_code() -> None:
    comments = [
        match[1]
        for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.sql")]
        for match in re.finditer(
            r"(?:#|--) (?:.*\s)?guard: ([A-Z_]+(?:, [A-Z_]+)*)(?:;|$)", path.read_text(), re.MULTILINE
        )
    ]
    named = {name for each in comments for name in each.split(", ")}
    assert named == {guard.name for guard in ALL_GUARDS}


@functools.cache
def _found(without: Without) -> Result[Any]:
    # To see that nothing goes wrong in longer histories takes the command.
    return without.search(2 if without.stands_in is None else 1)


def _all_steps() -> Iterator[Step]:
    for without in WITHOUT:
        yield from _found(without).steps
    models: list[Any] = [QUICK[0].models[-1], Moving(kind=Kind.QUERY_TAGS, together=False)]
    models += [Moving(kind=Kind.TABLE, lapses=1, crashes=0), Verifying(crashes=0)]
    for each in models:
        steps: set[Step] = set()

        def moves(state: Any, model: Any = each, steps: set[Step] = steps) -> Iterator[Any]:
            for step, reached in model.moves(state):
                steps.add(step)
                yield step, reached

        search(each.start, moves, lambda _: None)
        yield from steps


# ---- the search itself


def test_the_search_finds_a_shortest_way() -> None:
    def moves(number: int) -> Iterator[tuple[Step, int]]:
        yield Step("double"), number * 2 % 100
        yield Step("add"), number + 1

    found = search(1, moves, lambda number: "nine" if number == 9 else None)
    assert [step.words for step in found.steps] == ["double", "double", "double", "add"]
    assert found.last == 9
    assert search(1, lambda number: [(Step("turn"), (number + 1) % 7)], lambda _: None).states == 7
