"""Which servers the tests run against."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import DSN_VARIABLE, EVERY_SERVER, Choice, Plugin, Source, choices_of, missing, select, servers_for

ROOT = Path(__file__).parents[2]
NO_BINARIES = """
from pathlib import Path
import replicator.demo.embedded as embedded
embedded.installed_binaries = lambda: []
embedded.wheel_binaries = lambda: None
from tests import servers
servers.UNPACKED = Path("nowhere")
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


EVERYWHERE = list(
    choices_of(
        [source(18, "pgoutput"), INSTALLED, WHEEL, source(14, "pgoutput"), source(17, "pgoutput")],
    ).values()
)
ENDS = ["pg14-pgoutput", "pg15-wal2json", "pg18-pgoutput"]


def test_the_full_set_has_every_supported_version_and_both_plugins() -> None:
    assert tuple(each.id for each in EVERYWHERE) == EVERY_SERVER


@pytest.mark.parametrize(
    ("marks", "ids"),
    [
        ((), ENDS),
        (("one_server",), ["pg18-pgoutput"]),
        (("two_servers",), ["pg15-wal2json", "pg18-pgoutput"]),
        (("every_server",), list(EVERY_SERVER)),
        (("every_server", "two_servers"), list(EVERY_SERVER)),
        (("one_server", "every_server"), ["pg18-pgoutput"]),
        (("faults", "timeout"), ENDS),
    ],
)
def test_a_mark_says_which_servers_a_test_runs_on(marks: tuple[str, ...], ids: list[str]) -> None:
    assert [each.id for each in servers_for(marks, EVERYWHERE)] == ids


def test_what_is_named_on_the_command_line_runs_every_test() -> None:
    named = EVERYWHERE[2:5]
    assert servers_for((), named, "some") == named
    assert servers_for(("two_servers",), named, "some") == [named[0], named[-1]]


@pytest.mark.parametrize("marks", [(), ("one_server",), ("two_servers",), ("every_server",)])
def test_a_test_runs_on_what_there_is(marks: tuple[str, ...]) -> None:
    assert servers_for(marks, []) == []
    assert servers_for(marks, EVERYWHERE[-2:-1]) == EVERYWHERE[-2:-1]


def test_each_server_that_is_missing_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DSN_VARIABLE, raising=False)
    assert missing(EVERY_SERVER) == []
    [said] = missing([each for each in EVERY_SERVER if each != "pg17-pgoutput"])
    assert said.startswith("pg17-pgoutput, which is not on this machine (tests/install_servers.sh")
    monkeypatch.setenv(DSN_VARIABLE, "dbname=x")
    assert missing(["pg17-pgoutput"]) == [f"other servers than the one that {DSN_VARIABLE} names."]


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


def test_a_needed_server_that_is_missing_stops_the_run_and_ci_needs_every_one(tmp_path: Path) -> None:
    assert '--need all"' in (ROOT / ".ci" / "run").read_text()
    result = run_without_servers(tmp_path, "--need", "all")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"There is no {', '.join(EVERY_SERVER)} on this machine. Found: none." in result.stderr


def test_what_was_not_tested_is_said_at_the_end(tmp_path: Path) -> None:
    ending = run_without_servers(tmp_path).stdout.splitlines()[-20:]
    assert len([line for line in ending if line.startswith("NOT TESTED: pg")]) == len(EVERY_SERVER)


def test_a_given_server_that_does_not_answer_stops_the_run(tmp_path: Path) -> None:
    result = run_without_servers(tmp_path, **{DSN_VARIABLE: "postgresql://127.0.0.1:1/none?connect_timeout=5"})
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert DSN_VARIABLE in result.stderr
