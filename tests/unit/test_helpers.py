"""What tests share lies in modules of its own; and there is one way to wait for a condition."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MODULES = sorted(TESTS.rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """The modules that are imported, wherever the statement stands; with the names that may be modules too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{each.name}" for each in node.names)


def of_tests(source: str) -> list[str]:
    return [
        each
        for each in imported(source)
        if each.startswith("tests.") and any(part.startswith("test_") for part in each.split("."))
    ]


def test_no_module_imports_a_test_module() -> None:
    found = {path.relative_to(TESTS).as_posix(): of_tests(path.read_text()) for path in MODULES}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "statement",
    [
        "from tests.integration.test_cutover import one",
        "from tests.integration import test_cutover",
        "import tests.integration.test_cutover as cutover",
        "def inner():\n    from tests.unit.test_sizes import PACKAGE",
    ],
)
def test_every_way_of_importing_is_seen(statement: str) -> None:
    assert len(of_tests(statement)) == 1


def waits(source: str) -> list[int]:
    """The lines of loops that do nothing but sleep, and of functions that are called as those in ``tests.waiting``."""
    tree = ast.parse(source)
    methods = {each for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for each in node.body}
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.While) and only_sleeps(node))
        or (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name in {"until", "wait_until", "wait_for", "eventually"}
            and node not in methods
        )
    ]


def only_sleeps(loop: ast.While) -> bool:
    called = [each.func for part in loop.body for each in ast.walk(part) if isinstance(each, ast.Call)]
    return all(isinstance(part, ast.Expr | ast.Assert) for part in loop.body) and any(
        isinstance(each, ast.Attribute) and each.attr == "sleep" for each in called
    )


def test_there_is_one_way_to_wait() -> None:
    found = {path.relative_to(TESTS).as_posix(): waits(path.read_text()) for path in MODULES}
    assert {path for path, lines in found.items() if lines} == {"waiting.py"}


@pytest.mark.parametrize(
    "statement",
    [
        "while not there():\n    await asyncio.sleep(0.1)",
        "while not there():\n    assert more(), 'in vain'\n    time.sleep(0.1)",
        "async def until(holds): ...",
        "def story():\n    def eventually(holds): ...",
    ],
)
def test_every_other_way_to_wait_is_seen(statement: str) -> None:
    assert len(waits(statement)) == 1
