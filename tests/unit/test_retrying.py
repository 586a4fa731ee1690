"""Trying again: how often, after which errors, what happens in between; and that nobody does it in a way of his own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import DatabaseError, RetryableError
from replicator.runtime.retrying import retry

PACKAGE = Path(__file__).parents[2] / "replicator"
ENGINE = ("apply", "backfill", "pipeline", "switchover", "demo")
"""What these do again, they do in another way, or in another transaction."""


class Work:
    """Fails with these errors, one after the other; then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.done = 0

    async def __call__(self) -> int:
        self.done += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.done


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; none takes any time."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr("replicator.runtime.retrying.asyncio.sleep", sleep)
    return made


async def test_it_is_done_until_it_works(pauses: list[float]) -> None:
    between: list[Exception] = []

    async def note(error: Exception) -> None:
        between.append(error)

    errors = [RetryableError("a"), RetryableError("b")]
    assert await retry(Work(*errors), on=RetryableError, tries=3, pause=lambda tried: tried * 10, between=note) == 3
    assert between == errors
    assert pauses == [10, 20]


async def test_the_last_error_is_raised_at_once(pauses: list[float]) -> None:
    work = Work(RetryableError("a"), RetryableError("b"), RetryableError("c"))
    with pytest.raises(RetryableError, match="b"):
        await retry(work, on=RetryableError, tries=2, pause=1)
    assert (work.done, pauses) == (2, [1])


@pytest.mark.parametrize("error", [ValueError("a"), DatabaseError("a", "", "23505")])
async def test_other_errors_are_raised_at_once(error: Exception, pauses: list[float]) -> None:
    work = Work(error)
    with pytest.raises(type(error)):
        await retry(work, on=DatabaseError, when=lambda each: each.sqlstate == "55006")
    assert (work.done, pauses) == (1, [])


def repetitions(tree: ast.AST) -> Iterator[str]:
    """Functions that count or go on for ever around a `try` which may end the loop, and whose `except` may not."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for loop in ast.walk(function):
            if isinstance(loop, ast.While):
                endless = isinstance(loop.test, ast.Constant)
            elif isinstance(loop, ast.For):
                endless = "range(" in ast.unparse(loop.iter) or isinstance(loop.iter, ast.Tuple)
            else:
                continue
            for each in ast.walk(loop):
                if endless and isinstance(each, ast.Try) and _ends([*each.body, *each.orelse]) and not _all_end(each):
                    yield function.name


def _ends(statements: list[ast.stmt]) -> bool:
    return any(isinstance(node, ast.Return | ast.Break) for each in statements for node in ast.walk(each))


def _all_end(attempt: ast.Try) -> bool:
    return all(isinstance(each.body[-1], ast.Raise | ast.Return | ast.Break) for each in attempt.handlers)


def test_nobody_repeats_in_a_way_of_his_own() -> None:
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}:{name}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in ENGINE
        for name in repetitions(ast.parse(path.read_text()))
    }
    # The sort tries again with another graph.
    assert found == {"runtime/retrying.py:retry", "core/ordering.py:parents_first"}, "use replicator.runtime.retrying"
