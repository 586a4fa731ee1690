"""What tests share lies in modules of its own, they wait in one way, and patch what is private only where they must."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.runtime.failpoints import Failpoint, handled, reach
from tests.leftovers import patched, undo

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


async def test_a_patch_that_nobody_takes_back_is_undone() -> None:
    """As after a test that a time limit has ended."""

    class Engine:
        speed = 1

    async def fail() -> None:
        raise LookupError

    left = [patched(Engine, "speed", 2), handled(Failpoint.STAGED, fail)]
    for each in left:
        each.__enter__()
    assert Engine.speed == 2
    undo()
    assert Engine.speed == 1
    await reach(Failpoint.STAGED)
    for each in reversed(left):  # late, as by the garbage collector
        each.__exit__(None, None, None)
    assert Engine.speed == 1
    await reach(Failpoint.STAGED)


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


def private_patches(source: str) -> list[str]:
    """The private names of the program that are patched: each breaks when the program is rearranged."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in {"setattr", "delattr", "object", "patch"}:
            texts = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            found += [each.split(".")[-1] for each in texts[:1] if each.split(".")[-1].startswith("_")]
    return [each for each in found if not each.startswith("__")]


PATCHED = {
    "integration/test_attacks.py": ["_apply"],  # what the pipeline is given to apply
    "integration/test_building.py": ["_apply"],  # batch by batch, none of it read yet
    "integration/test_cleanup.py": ["_write"],  # an archive that is damaged as it is written
    "integration/test_closing.py": ["_refuse"],  # between a list and the names in it
    "integration/test_finish.py": ["_remove_guards"],  # no failpoint: it ends no daemon
    "integration/test_in_doubt.py": ["_commit"],  # the commit comes, but late
    "integration/test_rename.py": ["_apply"],  # slow in one direction
    "integration/test_replication_stream.py": ["_loop"],  # a socket that is not writable
    "integration/test_waits.py": ["_tell"],  # each turn of the waiting
    "integration/test_undisturbed.py": ["_check"],  # ownership moves in the middle of the checks
    "stepping.py": ["_commit"],  # a step before it and one after it, of one pipeline
    "unit/test_cli.py": ["_run"],
    "unit/test_replication.py": ["_end"],
}
"""Those that are left; the list may only shrink. For faults, the seam is ``failpoints.handled``."""


def test_no_private_method_is_patched_where_there_is_a_seam() -> None:
    found = {path.relative_to(TESTS).as_posix(): private_patches(path.read_text()) for path in MODULES}
    assert {path: names for path, names in found.items() if names} == PATCHED


@pytest.mark.parametrize(
    "statement",
    [
        'monkeypatch.setattr(Cutover, "_commit", commit)',
        'monkeypatch.setattr("replicator.switchover.cutover.Cutover._drain", never)',
        'patch.object(Switchovers, "_leave", die)',
        'patch("replicator.switchover.handover._tell")',
    ],
)
def test_every_way_of_patching_is_seen(statement: str) -> None:
    assert len(private_patches(statement)) == 1
