"""The tables of traps and of situations in tests/README.md: each has its tests, and these exist."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROW = re.compile(r"^\| ([A-D]?\d+) \| (.*) \| (.*) \|$", re.MULTILINE)
SITUATIONS = {"A": 10, "B": 12, "C": 11, "D": 18}


def guards() -> dict[str, list[str]]:
    text = (TESTS / "README.md").read_text().split("\n## Traps\n")[1]
    return {number: re.findall(r"`(test_\w+\.py::\w+)`", guarded) for number, _, guarded in ROW.findall(text)}


def test_every_trap_and_situation_is_guarded() -> None:
    found = guards()
    situations = [f"{kind}{number}" for kind, most in SITUATIONS.items() for number in range(1, most + 1)]
    assert list(found) == [*map(str, range(1, 38)), *situations]
    assert [number for number, tests in found.items() if not tests] == []


def test_every_guard_exists() -> None:
    known = {
        f"{file.name}::{node.name}"
        for file in TESTS.rglob("test_*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert sorted({each for tests in guards().values() for each in tests} - known) == []
