"""What composes the program says what it takes: a call that forwards anything is checked by nobody."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest

import replicator
from replicator.core.changes import Change
from replicator.core.epochs import LeaseEpoch, OwnershipEpoch, after
from replicator.core.lsn import LSN, DurableLSN
from replicator.follow.follower import Follower

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


# ---- invariants as types


def makes(call: ast.Call, name: str) -> bool:
    """Whether a call makes a value of this type: by its name, its module's attribute, or a cast."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
    return called == name or (called == "cast" and name in ast.unparse(call.args[0]))


@pytest.mark.parametrize("text", ["DurableLSN(x)", "lsn.DurableLSN(x)", 'cast("DurableLSN", x)', "cast(DurableLSN, x)"])
def test_each_way_to_make_a_value_is_seen(text: str) -> None:
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert makes(call, "DurableLSN")
    assert not makes(call, "LeaseEpoch")


def made(name: str) -> set[str]:
    """The modules in which a value of this type is made."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and makes(node, name)
    }


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("DurableLSN", {"postgres/control/progress.py"}),
        ("LeaseEpoch", {"postgres/control/lease.py"}),
        ("OwnershipEpoch", {"core/epochs.py", "core/markers.py", "postgres/control/ownership.py"}),
    ],
)
def test_what_only_one_place_may_make_is_made_there(name: str, places: set[str]) -> None:
    """A position that is confirmed was committed; an epoch was read from the row that counts it."""
    assert made(name) == places


def test_the_follower_confirms_nothing_else() -> None:
    hints = get_type_hints(Follower.confirm)
    assert hints["flushed"] is DurableLSN


def refused_by_the_type_checker(follower: Follower, read: LSN, lease: LeaseEpoch, owner: OwnershipEpoch) -> None:
    """Nobody calls this: mypy fails on an ignored error that is none, so each of these lines is an error."""
    follower.confirm(read)  # type: ignore[arg-type]  # not committed
    after(lease)  # type: ignore[arg-type]
    after(1)  # type: ignore[arg-type]
    mixed: LeaseEpoch = owner  # type: ignore[assignment]
    change: Change = Change(("public", "t"), "truncate")  # type: ignore[arg-type]
    del mixed, change


# ---- docstrings


def raised(function: ast.FunctionDef) -> set[str]:
    """The exceptions that a function's own body makes and raises."""
    return {
        node.exc.func.id
        for node in ast.walk(function)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }


PUBLIC = [
    pytest.param(function, id=f"{module}.{function.name}")
    for module in ("migration", "values", "settings", "errors", "core/lsn")
    for function in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text()))
    if isinstance(function, ast.FunctionDef) and raised(function) and not function.name.startswith("_")
]


@pytest.mark.parametrize("function", PUBLIC)
def test_what_users_import_says_what_it_raises(function: ast.FunctionDef) -> None:
    text = ast.get_docstring(function) or ""
    assert [name for name in raised(function) if name not in text] == []
