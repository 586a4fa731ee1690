"""ARCHITECTURE.md leads to the code as it is: whoever moves or renames a thing corrects the line that leads to it."""

import re
from collections import Counter

import pytest

from tests.pages import PAGES, ROOT, prose, section, tables

CODE = ROOT / "replicator"
PAGE = prose(PAGES["ARCHITECTURE.md"])
TESTS = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
ROWS, MORE = tables(section("Invariants", {"ARCHITECTURE.md": PAGES["ARCHITECTURE.md"]}))[:2]
FILE = re.compile(r"`([\w/]+\.(?:py|sql))`")
GUARD = re.compile(r"(?:^\s*(?:#|--)|  #).*\((I\d)\)", re.MULTILINE)
"""A comment that names the invariant which the line below, or beside it, enforces."""


def defined(file: str, name: str) -> bool:
    """Whether a file of the package defines a function, or a class's method."""
    text = (CODE / file).read_text()
    if file.endswith(".sql"):
        return f"FUNCTION {name}(" in text
    owner, _, method = name.rpartition(".")
    return f"def {method}(" in text and (not owner or re.search(rf"^class {owner}\b", text, re.MULTILINE) is not None)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].split()[0])
def test_an_invariant_leads_to_what_enforces_it(row: list[str]) -> None:
    """At most three files are opened first, each of them at a function. That of the ground has many consequences."""
    found = 0
    for place in row[2].split("; "):
        file, _, names = place.partition(": ")
        assert (CODE / file.strip("`")).is_file(), file
        for name in re.findall(r"`([^`]+)`", names):
            found += 1
            assert defined(file.strip("`"), name), f"{file} {name}"
    assert found
    assert len(row[2].split("; ")) <= 3 or row[0].startswith("I9")


def test_every_guard_that_names_an_invariant_is_in_a_table() -> None:
    """So is nothing in the second table that has no such comment."""
    first = {(row[0].split()[0], file) for row in ROWS for file in FILE.findall(row[2])}
    more = {(row[0], file) for row in MORE for file in FILE.findall(row[1])}
    commented = {
        (invariant, path.relative_to(CODE).as_posix())
        for path in CODE.rglob("*")
        if path.suffix in {".py", ".sql"}
        for invariant in GUARD.findall(path.read_text())
    }
    assert commented - first == more - first
    assert more.isdisjoint(first)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].split()[0])
def test_an_invariant_leads_to_its_tests(row: list[str]) -> None:
    assert set(re.findall(r"`(test_\w+)`", row[3])) <= TESTS
    assert "test" in row[3]


def test_every_file_and_test_that_is_named_is_there() -> None:
    files = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|sql))`", PAGE))
    assert len(files) > 40
    assert [file for file in sorted(files) if not (CODE / file).is_file()] == []
    assert set(re.findall(r"`(test_\w+)`", PAGE)) <= TESTS


def test_every_folder_has_its_layer() -> None:
    """Each name in the table is a folder, or a module, at the package's root; and each of these is in the table."""
    (layers,) = tables(section("Layers", {"ARCHITECTURE.md": PAGES["ARCHITECTURE.md"]}))
    named = {name for row in layers for name in re.findall(r"`(\w+)`", row[1])}
    assert named == {path.stem for path in CODE.iterdir()} - {"__init__", "__pycache__"}


def test_no_name_of_a_module_repeats() -> None:
    """A module may bear its own folder's name; two folders have no module of one name."""
    names = Counter(path.stem for path in CODE.rglob("*.py") if path.stem != path.parent.name)
    assert [name for name, count in names.items() if count > 1 and name != "__init__"] == []
