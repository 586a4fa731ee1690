"""Which servers the tests run against."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fix_postgres import DSN_VARIABLE, Choice, Plugin, Source, choices_of, select

ROOT = Path(__file__).parents[2]
NO_BINARIES = """
import replicator.demo.embedded as embedded
embedded.installed_binaries = lambda: []
embedded.wheel_binaries = lambda version: None
"""


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


def run_without_servers(plugins: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a test that needs a server, where no binaries are found."""
    (plugins / "no_binaries.py").write_text(NO_BINARIES)
    test = "tests/integration/test_embedded.py::test_its_plugin_works"
    command = [sys.executable, "-m", "pytest", "-p", "no_binaries", "-p", "no:cacheprovider", *options, test]
    inherited = {name: value for name, value in os.environ.items() if name not in {DSN_VARIABLE, "PYTEST_ADDOPTS"}}
    paths = f"{plugins}{os.pathsep}{ROOT}"
    hidden = {**inherited, "PYTHONPATH": paths, "DOCKER_HOST": "tcp://127.0.0.1:1", **environment}
    return subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True, check=False)


def test_with_no_server_at_all_a_test_that_needs_one_fails_and_says_what_to_install(tmp_path: Path) -> None:
    result = run_without_servers(tmp_path)
    assert result.returncode == 1, result.stdout
    assert "No Postgres to test against was found" in result.stdout
    assert "apt-get install postgresql-15" in result.stdout
    assert "1 error" in result.stdout


def test_a_needed_server_that_is_missing_stops_the_run(tmp_path: Path) -> None:
    result = run_without_servers(tmp_path, "--need", "pg15-wal2json")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "There is no pg15-wal2json on this machine. Found: none." in result.stderr


def test_a_given_server_that_does_not_answer_stops_the_run(tmp_path: Path) -> None:
    result = run_without_servers(tmp_path, **{DSN_VARIABLE: "postgresql://127.0.0.1:1/none?connect_timeout=5"})
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert DSN_VARIABLE in result.stderr
