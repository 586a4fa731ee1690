"""Modules of at most 300 lines, functions of at most 40: what is longer has a second idea in it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "replicator"
LINES, FUNCTION_LINES = 300, 40

LONG_MODULES = {
    "pipeline/pipeline.py": 368,
    "preflight/migration_checks.py": 318,
}
"""Those that are longer still, and how long they may be. What has become short goes from here; nothing is added."""

LONG_FUNCTIONS = {
    "apply/work.py:Work._apply_batch": 49,
    "cli/switchover_commands.py:cutover": 46,
    "cli/prepare.py:schema": 49,
    "runbook/finish.py:abort": 49,
    "migration.py:Migration.copy": 55,
    "pipeline/pipeline.py:Pipeline.__init__": 46,
    "postgres/rows/inserting.py:insert": 44,
    "postgres/rows/target.py:TargetWriter.children_of": 46,
    "pipeline/repair.py:repair": 49,
    "pipeline/setup.py:set_up_slot": 53,
}
"""Likewise, by module and name."""


def modules() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), path.read_text()


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Each function's name, with its class's, and how many lines it has, its decorators left out."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not isinstance(each, ast.ClassDef):
                yield f"{prefix}{each.name}", (each.end_lineno or each.lineno) - each.lineno + 1
            yield from functions(each, f"{prefix}{each.name}.")
        else:
            yield from functions(each, prefix)


def held_against(found: dict[str, int], allowed: dict[str, int]) -> list[str]:
    """What is wrong, in words."""
    wrong = [f"{name} has {lines} lines" for name, lines in found.items() if lines > allowed.get(name, 0)]
    return wrong + [f"{name} is short now: take it off the list" for name in allowed.keys() - found.keys()]


def test_no_module_is_long() -> None:
    found = {name: lines for name, source in modules() if (lines := len(source.splitlines())) > LINES}
    assert held_against(found, LONG_MODULES) == []


def test_no_function_is_long() -> None:
    found = {
        f"{module}:{name}": lines
        for module, source in modules()
        for name, lines in functions(ast.parse(source))
        if lines > FUNCTION_LINES
    }
    assert held_against(found, LONG_FUNCTIONS) == []


@pytest.mark.parametrize(
    ("found", "allowed", "wrong"),
    [
        ({"a": 301}, {}, ["a has 301 lines"]),
        ({"a": 301}, {"a": 301}, []),
        ({"a": 302}, {"a": 301}, ["a has 302 lines"]),
        ({"a": 301}, {"a": 310}, []),
        ({}, {"a": 310}, ["a is short now: take it off the list"]),
    ],
)
def test_the_list_may_only_shrink(found: dict[str, int], allowed: dict[str, int], wrong: list[str]) -> None:
    assert held_against(found, allowed) == wrong
