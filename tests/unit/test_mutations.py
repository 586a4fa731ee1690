"""Each marker in the engine has one case, each case one marker, and the test is there that sees it break."""

import ast
import re
from pathlib import Path

import pytest

from tests.mutations.__main__ import PACKAGE, PAGE, ROOT
from tests.mutations.breaking import Break, Condition, First, Left, Text, Value, marked_places
from tests.mutations.cases import MUTATIONS, Mutation

MARKED = marked_places(PACKAGE)


def test_each_marker_has_a_case_and_each_case_a_marker() -> None:
    assert sorted(each.marker for each in MUTATIONS) == sorted(MARKED)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.marker)
def test_what_is_marked_can_be_broken_and_its_test_is_there(mutation: Mutation) -> None:
    path, marked = MARKED[mutation.marker]
    broken = mutation.done(marked)
    if path.suffix == ".py":
        assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(marked.text))  # comments do not count
    else:
        assert broken != marked.text
    file, _, words = mutation.test.partition(" ")
    names = re.findall(r"^(?:async )?def (test_\w+)", (ROOT / "tests" / file).read_text(), re.MULTILINE)
    assert any(words in name for name in names)


def test_no_mutation_has_survived() -> None:
    page = PAGE.read_text()
    assert "**nothing**" not in page
    named = re.findall(r"^\| ([a-z0-9-]+) \| [a-z_]+/", page, re.MULTILINE)
    assert named == [each.marker for each in MUTATIONS], "the page is out of date: python -m tests.mutations --write"


# ---- how a marker finds its place


def test_a_marker_stands_on_its_line_or_above_it(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "a = 1  # mutation: here\n"
        "# Why it is so. mutation: above\n"
        "# Of which more can be said.\n"
        "b = (\n"
        "    2,\n"
        "    3,  # mutation: inside\n"
        ")\n"
        "c = '# mutation: text'\n"
    )
    (tmp_path / "two.sql").write_text("-- Why. mutation: query\nSELECT 1;\nSELECT 2; -- mutation: behind\n")
    lines = {name: marked.text[marked.start : marked.end] for name, (_, marked) in marked_places(tmp_path).items()}
    assert lines == {
        "here": "a = 1  # mutation: here",
        "above": "b = (\n    2,\n    3,  # mutation: inside\n)",
        "inside": "    3,  # mutation: inside\n)",
        "query": "SELECT 1;",
        "behind": "SELECT 2; -- mutation: behind",
    }


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a = 1  # mutation: same\nb = 2  # mutation: same\n", "named same"),
        ("a = 1\n# mutation: last\n", "no line of code"),
        ("# mutation: far\n\na = 1\n", "no line of code"),
    ],
)
def test_a_marker_that_marks_nothing_or_two_places_is_refused(text: str, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(text)
    with pytest.raises(ValueError, match=wrong):
        marked_places(tmp_path)


@pytest.mark.parametrize(
    ("line", "done", "broken"),
    [
        ("if a and b: c()", Condition(False), "if False: c()"),
        ("while a: c()", Condition(True), "while True: c()"),
        ("c = [é for é in a if é > 1]", Condition(True), "c = [é for é in a if True]"),
        ("c = 'é' if a else b", Condition(False), "c = 'é' if False else b"),
        ("c = a(1)", Value("None"), "c = None"),
        ("c.d(a)", Left(), "pass"),
        ("c.d(a)", First("e()"), "e(); c.d(a)"),
        ("c = a + a", Text("a +", "b -"), "c = b - a"),
    ],
)
def test_ways_to_break_a_statement(line: str, done: Break, broken: str, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(f"é = 1\nwhile é:\n    # mutation: it\n    {line}\na = 1\n")
    _, marked = marked_places(tmp_path)["it"]
    assert done(marked) == f"é = 1\nwhile é:\n    # mutation: it\n    {broken}\na = 1\n"


@pytest.mark.parametrize("done", [Condition(False), Value("1"), Text("f", "b")])
def test_what_does_not_apply_is_refused(done: Break, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("c.d(e)  # mutation: it\nif a: a = a\n")
    _, marked = marked_places(tmp_path)["it"]
    with pytest.raises(ValueError, match=r"There is no|Nothing|This is not there"):
        done(marked)
