"""Which servers the tests run against."""

import contextlib

import pytest

from tests.fix_postgres import Choice, Plugin, Source, choices_of, select


def source(version: int, *plugins: Plugin) -> Source:
    def start(stack: contextlib.ExitStack) -> tuple[str, None]:
        return f"host={version}", None

    return Source(version, plugins, start)


DOCKER, INSTALLED, WHEEL = source(16, "pgoutput"), source(15, "wal2json", "pgoutput"), source(16, "pgoutput")


def test_the_full_matrix_is_sorted_and_the_first_source_wins() -> None:
    found = choices_of([DOCKER, INSTALLED, WHEEL, source(18, "pgoutput")])
    assert list(found) == ["pg15-wal2json", "pg15-pgoutput", "pg16-pgoutput", "pg18-pgoutput"]
    assert found["pg16-pgoutput"] == Choice(DOCKER, "pgoutput")


def test_all_are_selected_unless_some_are_named() -> None:
    found = choices_of([INSTALLED, WHEEL])
    assert [choice.id for choice in select(found, None)] == ["pg15-wal2json", "pg15-pgoutput", "pg16-pgoutput"]
    assert [choice.id for choice in select(found, "pg16-pgoutput, pg15-wal2json")] == ["pg16-pgoutput", "pg15-wal2json"]


def test_naming_a_server_that_is_not_there_is_an_error_that_says_how_to_get_it() -> None:
    with pytest.raises(pytest.UsageError, match=r"no pg17-pgoutput on this machine[^$]*apt-get install"):
        select(choices_of([INSTALLED]), "pg17-pgoutput")
