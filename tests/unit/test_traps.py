"""The table of traps in tests/README.md: each trap has its tests, and these exist."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROW = re.compile(r"^\| (\d+) \| (.*) \| (.*) \|$", re.MULTILINE)


def guards() -> dict[int, list[str]]:
    text = (TESTS / "README.md").read_text().split("\n## Traps\n")[1]
    return {int(number): re.findall(r"`(test_\w+\.py::\w+)`", guarded) for number, _, guarded in ROW.findall(text)}


def test_every_trap_is_guarded() -> None:
    found = guards()
    assert list(found) == list(range(1, 38))
    assert [number for number, tests in found.items() if not tests] == []


def test_every_guard_exists() -> None:
    known = {
        f"{file.name}::{node.name}"
        for file in TESTS.rglob("test_*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert sorted({each for tests in guards().values() for each in tests} - known) == []
