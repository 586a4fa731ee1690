"""What tests share lies in modules of its own: nobody imports a test module, whose tests would hang on another's."""

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
