"""The list of mutations fits the code: each line is there once, and so is the test that sees it break."""

import re

import pytest

from tests.mutations.__main__ import PAGE, ROOT
from tests.mutations.cases import MUTATIONS, Mutation, mutated


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: f"{each.file}: {each.line}")
def test_the_line_is_there_once_and_its_test_too(mutation: Mutation) -> None:
    sound = (ROOT / mutation.file).read_text()
    broken = mutated(sound, mutation)
    assert broken != sound
    if mutation.file.endswith(".py"):
        compile(broken, mutation.file, "exec")
    file, _, words = mutation.test.partition(" ")
    names = re.findall(r"^(?:async )?def (test_\w+)", (ROOT / "tests" / file).read_text(), re.MULTILINE)
    assert any(words in name for name in names)


def test_no_mutation_has_survived() -> None:
    page = PAGE.read_text()
    assert "**nothing**" not in page
    assert page.count("\n| ") == len(MUTATIONS) + 1, "the page is out of date: python -m tests.mutations --write"
