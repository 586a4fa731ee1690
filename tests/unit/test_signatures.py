"""What composes the program says what it takes: a call that forwards anything is checked by nobody."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import replicator

PACKAGE = Path(replicator.__file__).parent
TYPED = ("daemon", "switchover")
"""The folders without ``Any``, which is for values of rows, and for what a library does not type."""


def loose(source: str) -> Iterator[str]:
    """Where ``Any`` stands as a type: in a signature, of an attribute, or behind a name of a type's own."""
    for node in ast.walk(ast.parse(source)):
        if (isinstance(node, ast.Name) and node.id == "Any") or (
            isinstance(node, ast.Attribute) and node.attr == "Any"
        ):
            yield f"line {node.lineno}"


MODULES = [path for folder in TYPED for path in sorted((PACKAGE / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_is_typed_as_anything(path: Path) -> None:
    assert list(loose(path.read_text())) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(*arguments: Any, **options: Any) -> None: ...", 2),
        ("Answer = dict[str, Any]", 1),
        ("async def f(a: typing.Any): ...", 1),
        ("def f(a: object, *b: int) -> str: '''Any.'''", 0),
    ],
)
def test_any_is_found(source: str, found: int) -> None:
    assert len(list(loose(source))) == found
