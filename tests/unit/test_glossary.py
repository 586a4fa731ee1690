"""The glossary points into the code as it is: whoever renames a thing, corrects the line that leads to it."""

import re

import pytest

from tests.pages import PAGES, ROOT, tables

CODE = ROOT / "replicator"
CONTROL = CODE / "postgres" / "control" / "control.sql"
ROWS = [row for table in tables(PAGES["docs/contributor/glossary.md"]) for row in table]
PLACES = sorted({place for row in ROWS for place in re.findall(r"`([^`]+)`", row[3])})


def is_there(place: str) -> bool:
    """A module or a package, what is defined in one, a metric, or an object of the control schema."""
    if place.startswith("_replicator."):
        return (
            re.search(rf"{re.escape(place)}\b", (CODE / "postgres" / "control" / "control.sql").read_text()) is not None
        )
    if place.startswith("replicator_"):
        return place.removeprefix("replicator_") in (CODE / "observe" / "metrics.py").read_text()
    parts = place.split(".")
    for count in range(len(parts), 0, -1):
        path = CODE.joinpath(*parts[:count])
        if path.is_dir() and count == len(parts):
            return True
        if path.with_suffix(".py").is_file():
            return all(is_defined(name, path.with_suffix(".py").read_text()) for name in parts[count:])
    return False


def is_defined(name: str, text: str) -> bool:
    """A class, a function, a field, or a member of an enum."""
    found = rf"(?:class|def) {name}\b|^    (?:self\.)?{name}(?:: | = )|^{name} = |^        self\.{name}(?:: | = )"
    return re.search(found, text, re.MULTILINE) is not None


@pytest.mark.parametrize("place", PLACES)
def test_what_the_glossary_names_is_there(place: str) -> None:
    assert is_there(place)


@pytest.mark.parametrize(
    "place",
    [
        "pipeline.write_gate.WriteGate.stop",
        "pipeline.write_gate.Turning",
        "write_gate.WriteGate",
        "_replicator.turns",
        "switchover.phases.Phase.NIGHT",
    ],
)
def test_what_is_not_there_is_found(place: str) -> None:
    assert not is_there(place)


def test_every_term_has_a_meaning_and_stands_once() -> None:
    assert len(ROWS) > 50
    assert all(row[1] for row in ROWS)
    terms = [term for row in ROWS for term in row[0].split(", ")]
    assert len(set(terms)) == len(terms)
