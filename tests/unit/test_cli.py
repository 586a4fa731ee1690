"""The commands, without a server: what they print, what they exit with, and what they never print."""

import asyncio
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from rich.console import Console
from rich.table import Table

from replicator import Migration
from replicator.__main__ import main
from replicator.cli import page
from replicator.cli.client import RefusedError
from replicator.cli.help import EXAMPLES
from replicator.cli.reports import Report
from replicator.errors import ConnectionLostError, ExitCode, NotReadyError, ReplicatorError
from replicator.observe.status import Gate, StatusDocument, blank, from_stored, version
from replicator.postgres.control.mailbox import Command
from replicator.postgres.trying.scratch import Conflict
from replicator.preflight.whole import WholeReport
from replicator.runbook.dry_run import DryRun
from replicator.runbook.round_trip import Returned, WayBack
from replicator.settings import Settings, describe_settings
from replicator.terminal import text
from replicator.terminal.output import output
from tests.command_line import commands, split
from tests.logs import log_as_before

ROOT = Path(__file__).parents[2]
SECRET = "geheim-4711"
DSN = f"postgresql://app:{SECRET}@db.invalid:5433/party"
COMMANDS = tuple(commands())
ARGUMENTS = {
    "schema": "schema tables",
    "cutover": "cutover --wait",
    "try": "try people 1",
    "quarantine show": "quarantine show 7",
    "quarantine retry": "quarantine retry all",
    "quarantine discard": "quarantine discard 7 --because why",
}

Run = Callable[..., tuple[int, str, str]]


@dataclass
class Finding:
    check: str
    outcome: str
    detail: str
    remedy: str = ""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working directory with a migration and no .env, and an environment without settings."""
    for name in [name for name in os.environ if name.startswith("REPLICATOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "moves", raising=False)
    (tmp_path / "moves.py").write_text(
        "from replicator import Migration\nmigration = Migration('party', old='public', new='party')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture(autouse=True)
def heeded_signals() -> Iterator[None]:
    """As in a shell's foreground: under nohup and in the background some are ignored, in child processes too."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def logging() -> Iterator[None]:
    """Each command configures the log, for streams that are gone after the test."""
    with log_as_before():
        yield


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_SOURCE_DSN", DSN)
    monkeypatch.setenv("REPLICATOR_MIGRATION", "moves:migration")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; gives the exit code, standard output and standard error."""

    def run(line: str) -> tuple[int, str, str]:
        code = main(shlex.split(line))
        captured = capsys.readouterr()
        assert SECRET not in captured.out + captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a module with these names in the place of the real one."""

    def fake(module: str, **names: Any) -> None:
        made = ModuleType(module)
        vars(made).update(names)
        monkeypatch.setitem(sys.modules, module, made)
        parent, _, child = module.rpartition(".")
        monkeypatch.setattr(importlib.import_module(parent), child, made, raising=False)

    return fake


def replicator(line: str, **environment: str) -> subprocess.Popen[str]:
    """The program as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "replicator", *shlex.split(line)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_with_examples(run: Run, command: str) -> None:
    code, shown, errors = run(f"{command} --help")
    assert (code, errors) == (0, "")
    assert f"Usage: replicator {command}" in shown
    assert "Examples" in shown
    for example, _ in EXAMPLES[command]:
        assert example in shown
    assert "<bool>" not in shown


def test_the_help_lists_every_command_setting_and_exit_code(run: Run) -> None:
    code, shown, _ = run("--help")
    assert code == 0
    assert [name for name in COMMANDS if f"│ {name.split()[0]} " not in shown] == []
    assert [name for name, _, _ in describe_settings() if name not in shown] == []
    assert [code for code in ExitCode if f"│ {code.value}  " not in shown] == []


def test_the_help_describes_every_command_there_is() -> None:
    assert sorted(EXAMPLES) == sorted(COMMANDS)


@pytest.mark.parametrize("example", [line for each in EXAMPLES.values() for line, _ in each])
def test_an_example_is_a_command_line_that_is_understood(example: str) -> None:
    program, *arguments = shlex.split(example)
    assert program == "replicator"
    arguments = [each for each in arguments if each != "--debug"]
    name, rest = split(arguments)
    commands()[name].make_context(name, rest)


@pytest.mark.parametrize("line", ["--help", "quarantine --help", *(f"{command} --help" for command in COMMANDS)])
def test_the_help_fits_into_80_columns(run: Run, line: str) -> None:
    _, shown, _ = run(line)
    assert max(len(each.rstrip()) for each in shown.splitlines()) <= 80


def test_without_a_command_it_shows_the_help_as_wrong_use(run: Run) -> None:
    code, shown, _ = run("")
    assert code == 2
    assert "Usage: replicator" in shown


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"replicator {version()}\n", "")


# --- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, problem",
    [
        ("nonsense", "nonsense"),
        ("status --nonsense", "--nonsense"),
        ("check extra", "extra"),
        ("schema views", "'PART': 'views' is not one of"),
        ("cutover --wait --timeout soon", "--timeout"),
        ("cutover --wait --timeout -1", "--timeout"),
        ("quarantine nonsense", "nonsense"),
        ("quarantine list --limit 0", "--limit"),
        ("quarantine discard 7", "--because"),
        ("demo --rows 0", "--rows"),
        ("demo --rate many", "--rate"),
    ],
)
def test_wrong_use_is_a_sentence_and_a_2(run: Run, settings: None, line: str, problem: str) -> None:
    code, shown, errors = run(line)
    assert (code, shown) == (2, "")
    first, second = errors.splitlines()
    assert first.startswith("error: ")
    assert problem in first
    assert re.fullmatch(r"  what to do: See `replicator( \w+)* --help`\.", second)


def test_a_timeout_without_wait_is_wrong_use(run: Run, settings: None) -> None:
    code, _, errors = run("cutover --timeout 3")
    assert code == 2
    assert "--wait" in errors


@pytest.mark.parametrize("seconds", ["inf", "nan"])
def test_a_timeout_that_is_no_number_is_wrong_use(run: Run, settings: None, seconds: str) -> None:
    code, _, errors = run(f"rollback --wait --timeout {seconds}")
    assert code == 2
    assert "--timeout" in errors


@pytest.mark.parametrize(
    "line, problem",
    [
        ("retry", "Which rows"),
        ("retry 7 --transform person", "Which rows"),
        ("retry seven", "seven is not the number"),
        ("show seven", "seven is not the number"),
        ("discard 7 --because ' '", "--because is empty"),
        ("discard --because why", "Which rows"),
        ("discard 7 --transform person --because why", "Which rows"),
    ],
)
def test_wrong_use_of_the_quarantine(run: Run, settings: None, line: str, problem: str) -> None:
    code, shown, errors = run(f"quarantine {line}")
    assert (code, shown) == (2, "")
    assert problem in errors
    assert "what to do: " in errors


@pytest.mark.parametrize("command", [each for each in COMMANDS if each != "demo"])
def test_a_missing_setting_is_named(run: Run, command: str) -> None:
    code, shown, errors = run(ARGUMENTS.get(command, command))
    assert (code, shown) == (2, "")
    assert errors.startswith("error: REPLICATOR_SOURCE_DSN: ")
    assert "  what to do: Set it in the environment or in .env.\n" in errors


def test_every_wrong_setting_is_named_and_no_value_is_shown(
    run: Run, settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATOR_SLOT", SECRET.upper())
    monkeypatch.setenv("REPLICATOR_WORKERS", "none")
    monkeypatch.setenv("REPLICATOR_MAX_WRITE_PAUSE", "inf")
    code, _, errors = run("status")
    assert code == 2
    assert "REPLICATOR_SLOT" in errors
    assert "REPLICATOR_WORKERS" in errors
    assert "REPLICATOR_MAX_WRITE_PAUSE" in errors
    assert SECRET.upper() not in errors


@pytest.mark.parametrize("setting", ["SOURCE_DSN", "TARGET_DSN"])
@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://app:{SECRET}@{SECRET}@db/party",
        f"postgresql://app:{SECRET}/{SECRET}@db/party",
        f"postgresql://app:%zz{SECRET}@db/party",
        f"host=db password={SECRET} {SECRET}",
    ],
)
def test_a_dsn_that_cannot_be_read_is_not_quoted(
    run: Run, settings: None, monkeypatch: pytest.MonkeyPatch, setting: str, dsn: str
) -> None:
    monkeypatch.setenv(f"REPLICATOR_{setting}", dsn)
    for line in ("status", "status --debug"):  # `run` looks for the secret
        code, _, errors = run(line)
        assert code == 2
        assert f"error: REPLICATOR_{setting}: " in errors


def test_a_migration_that_is_not_there_is_wrong_use(run: Run, settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_MIGRATION", "nowhere:migration")
    code, _, errors = run("check")
    assert code == 2
    assert "nowhere" in errors


# --- errors -----------------------------------------------------------------------------------------------------------


def failing(error: BaseException) -> Callable[..., Any]:
    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_an_error_of_ours_is_a_sentence_and_what_to_do(run: Run, settings: None, fake: Callable[..., None]) -> None:
    fake("replicator.preflight", whole_preflight=failing(NotReadyError("The moon is new.", "Wait.")))
    code, shown, errors = run("check")
    assert (code, shown, errors) == (3, "", "error: The moon is new.\n  what to do: Wait.\n")


def test_with_json_an_error_is_json_too(run: Run, settings: None, fake: Callable[..., None]) -> None:
    fake("replicator.preflight", whole_preflight=failing(ConnectionLostError("Gone.", "Look.")))
    code, shown, errors = run("check --json")
    assert code == 1
    assert json.loads(shown) == {"error": "Gone.", "remedy": "Look.", "kind": "connection"}
    assert errors.startswith("error: Gone.\n")


def test_wrong_use_with_json_is_json_too(run: Run) -> None:
    code, shown, _ = run("check --json --nonsense")
    assert code == 2
    assert json.loads(shown)["kind"] == "usage"


def test_an_unexpected_error_is_one_line_without_its_text(run: Run, settings: None, fake: Callable[..., None]) -> None:
    fake("replicator.preflight", whole_preflight=failing(ValueError(f"a row with {SECRET}")))
    code, shown, errors = run("check")
    assert (code, shown) == (1, "")
    assert re.fullmatch(
        r"error: unexpected ValueError in test_cli\.py, line \d+; run again with --debug to see where it came from\.\n",
        errors,
    )


@pytest.mark.parametrize("line", ["--debug check", "check --debug"])
def test_debug_shows_the_traceback_without_passwords_and_without_foreign_messages(
    run: Run, settings: None, fake: Callable[..., None], line: str
) -> None:
    said = f"{DSN} host=x password='{SECRET} y' password={SECRET}"
    ours = ReplicatorError(f"The DSN is {said}.")
    ours.__cause__ = ValueError("a row")
    fake("replicator.preflight", whole_preflight=failing(ours))
    code, _, errors = run(line)
    assert code == 1
    assert "Traceback (most recent call last)" in errors
    assert "ReplicatorError: The DSN is postgresql://app:***@db.invalid" in errors
    assert "ValueError\n" in errors
    assert "a row" not in errors


def test_ctrl_c_is_quiet(run: Run, settings: None, fake: Callable[..., None]) -> None:
    fake("replicator.preflight", whole_preflight=failing(KeyboardInterrupt()))
    assert run("check") == (130, "", "")


def test_ctrl_c_is_quiet_while_modules_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    process = replicator("check")
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_a_process_exits_with_the_code_and_no_traceback() -> None:
    process = replicator("status --json")
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert json.loads(shown)["kind"] == "usage"
    assert "Traceback" not in errors


def test_a_server_that_does_not_answer_is_a_sentence() -> None:
    process = replicator("status", REPLICATOR_SOURCE_DSN=f"postgresql://app:{SECRET}@127.0.0.1:1/party")
    shown, errors = process.communicate(timeout=60)
    assert (process.returncode, shown) == (1, "")
    assert errors.startswith("error: No connection to 127.0.0.1:1/party. The connection failed: ")
    assert "what to do: " in errors
    assert "Traceback" not in errors
    assert SECRET not in errors


@pytest.mark.parametrize("line", ["--version", "--help", "status --json"])
def test_a_reader_that_goes_away_is_no_traceback(line: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "replicator", *shlex.split(line)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert process.returncode in (1, 2)
    assert "Traceback" not in process.stderr
    assert "BrokenPipe" not in process.stderr


def test_an_output_that_is_not_utf8_is_no_error() -> None:
    process = replicator("status --json --js→n", PYTHONIOENCODING="latin-1")
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--js?n" in json.loads(shown)["error"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_an_interruption_is_quiet_whatever_typer_makes_of_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def interrupted(_: list[str]) -> int:
        raise error

    monkeypatch.setattr("replicator.__main__._run", interrupted)
    assert run("status") == (130, "", "")


# --- check ------------------------------------------------------------------------------------------------------------


def findings(*found: Finding) -> Callable[..., Any]:
    async def preflight(settings: Settings, migration: Migration) -> WholeReport:
        assert (settings.source, migration.name) == (DSN, "party")
        report = WholeReport()
        report.findings += found  # type: ignore[arg-type]  # alike
        return report

    return preflight


PASS = Finding("wal_level", "pass", "logical")
WARN = Finding("columns", "warn", "public.requests.[note] is read by no transform", "Read it, or say why not.")
FAIL = Finding("slots", "fail", "max_replication_slots is 0", "Set it to 10 and restart.")


def test_check_passes(run: Run, settings: None, fake: Callable[..., None]) -> None:
    fake("replicator.preflight", whole_preflight=findings(PASS, WARN))
    code, shown, _ = run("check")
    assert code == 0
    assert [line.split() for line in shown.splitlines()[:2]] == [
        ["pass", "wal_level", "logical"],
        ["warn", "columns", "public.requests.[note]", "is", "read", "by", "no", "transform"],
    ]
    assert "what to do: Read it, or say why not." in shown
    assert "All 2 checks passed, 1 warning." in shown


def test_check_fails(run: Run, settings: None, fake: Callable[..., None]) -> None:
    fake("replicator.preflight", whole_preflight=findings(PASS, FAIL))
    code, shown, _ = run("check")
    assert code == 1
    assert "what to do: Set it to 10 and restart." in shown
    assert "1 check of 2 failed." in shown


def test_what_did_not_pass_comes_last(run: Run, settings: None, fake: Callable[..., None]) -> None:
    fake("replicator.preflight", whole_preflight=findings(FAIL, WARN, PASS))
    _, shown, _ = run("check")
    assert shown.index("wal_level") < shown.index("columns") < shown.index("slots")


def test_conflicts_of_a_dry_run_are_counted(run: Run, settings: None, fake: Callable[..., None]) -> None:
    one = Conflict(table="t", name="key", kind="unique", count=1, examples=())
    many = Conflict(table="t", name="fkey", kind="foreign key", count=1_200, examples=())

    async def tried(*_: Any) -> DryRun:
        return DryRun(sample=None, conflicts=[one, many])

    fake("replicator.runbook.dry_run", dry_run=tried)
    code, shown, _ = run("dry-run")
    assert code == 1
    assert "t, key: 1 value that several rows have\n" in shown
    assert "t, fkey: 1,200 rows that refer to none\n" in shown


def test_a_dry_run_whose_rows_do_not_come_back_is_no_success(
    run: Run, settings: None, fake: Callable[..., None]
) -> None:
    back = Returned(table="t", rows=2, differing={"v": 1})

    async def tried(*_: Any) -> DryRun:
        return DryRun(sample=None, way_back=WayBack(tables=[back]))

    fake("replicator.runbook.dry_run", dry_run=tried)
    code, shown, _ = run("dry-run")
    assert code == 3
    assert "v differs in 1 row" in shown
    code, shown, _ = run("dry-run --json")
    assert (code, json.loads(shown)["ok"], json.loads(shown)["comes_back"]) == (3, True, False)


def test_check_as_json(run: Run, settings: None, fake: Callable[..., None]) -> None:
    fake("replicator.preflight", whole_preflight=findings(PASS, FAIL))
    code, shown, _ = run("check --json")
    assert code == 1
    assert json.loads(shown) == {"ok": False, "checks": [vars(PASS), vars(FAIL)], "consequences": None}


# --- schema -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def built(fake: Callable[..., None]) -> list[tuple[str, list[str]]]:
    asked: list[tuple[str, list[str]]] = []

    async def build_schema(_: Settings, __: Migration, parts: list[str], report: Callable[[str], None]) -> list[str]:
        asked.append(("build", parts))
        report("CREATE TABLE [bold]")
        return ["CREATE TABLE [bold]"]

    async def schema_statements(_: Settings, __: Migration, parts: list[str]) -> list[str]:
        asked.append(("show", parts))
        return ["CREATE TABLE one ()", "CREATE TABLE two (\n  id int[]\n);"]

    fake("replicator.daemon.daemon", build_schema=build_schema, schema_statements=schema_statements)
    return asked


@pytest.mark.parametrize(
    "line, parts",
    [("schema", []), ("schema tables", ["tables"]), ("schema indexes constraints", ["indexes", "constraints"])],
)
def test_schema_builds_what_is_asked_for(
    run: Run, settings: None, built: list[tuple[str, list[str]]], line: str, parts: list[str]
) -> None:
    code, shown, notes = run(line)
    assert (code, built) == (0, [("build", parts)])
    assert notes == "CREATE TABLE [bold]\n"
    assert shown == "1 statement run.\n"


def test_schema_as_json(run: Run, settings: None, built: list[tuple[str, list[str]]]) -> None:
    code, shown, notes = run("schema --json")
    assert (code, notes) == (0, "")
    assert json.loads(shown) == {"done": ["CREATE TABLE [bold]"]}


def test_a_dry_run_prints_statements_and_builds_nothing(
    run: Run, settings: None, built: list[tuple[str, list[str]]]
) -> None:
    code, shown, _ = run("schema tables --dry-run")
    assert (code, built) == (0, [("show", ["tables"])])
    assert shown == "CREATE TABLE one ();\n\nCREATE TABLE two (\n  id int[]\n);\n\n"
    assert json.loads(run("schema --dry-run --json")[1])["statements"][0] == "CREATE TABLE one ()"


# --- run --------------------------------------------------------------------------------------------------------------


def test_run_ends_with_the_daemon(run: Run, settings: None, fake: Callable[..., None]) -> None:
    ran = []

    async def daemon(settings: Settings, migration: Migration, *, stop: asyncio.Event) -> None:
        ran.append((settings.source, migration.name, stop.is_set()))

    fake("replicator.daemon.daemon", run=daemon)
    assert run("run") == (0, "", "")
    assert ran == [(DSN, "party", False)]


def test_run_fails_with_the_daemon(run: Run, settings: None, fake: Callable[..., None]) -> None:
    fake("replicator.daemon.daemon", run=failing(ConnectionLostError("The slot is lost.", "Begin again.")))
    code, _, errors = run("run")
    assert code == 1
    [entry] = map(json.loads, errors.splitlines())  # off a terminal the last words are a line of the log
    assert (entry["event"], entry["kind"]) == ("the daemon ends", "connection")
    assert (entry["error"], entry["remedy"]) == ("The slot is lost.", "Begin again.")


def test_off_a_terminal_no_line_is_filled_up_with_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table.grid()
    table.add_row("short")
    table.add_row("long " * 30)
    output().print(table)
    shown = capsys.readouterr().out
    assert "short\n" in shown
    assert " \n" not in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_daemon_in_good_order(
    run: Run, settings: None, fake: Callable[..., None], number: signal.Signals
) -> None:
    orderly = []

    async def daemon(_: Settings, __: Migration, *, stop: asyncio.Event) -> None:
        signal.raise_signal(number)
        await asyncio.wait_for(stop.wait(), 30)
        orderly.append(True)

    fake("replicator.daemon.daemon", run=daemon)
    before = signal.getsignal(number)
    code, _, errors = run("run")
    assert (code, orderly) == (0, [True])
    assert json.loads(errors)["signal"] == number.name
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_it_at_once(run: Run, settings: None, fake: Callable[..., None]) -> None:
    async def daemon(_: Settings, __: Migration, *, stop: asyncio.Event) -> None:
        signal.raise_signal(signal.SIGINT)
        await stop.wait()
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(3600)

    fake("replicator.daemon.daemon", run=daemon)
    assert run("run")[0] == 130


def test_a_signal_that_is_ignored_stays_ignored(run: Run, settings: None, fake: Callable[..., None]) -> None:
    async def daemon(_: Settings, __: Migration, *, stop: asyncio.Event) -> None:
        signal.raise_signal(signal.SIGHUP)
        await asyncio.sleep(0)
        assert not stop.is_set()

    fake("replicator.daemon.daemon", run=daemon)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("run") == (0, "", "")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# --- demo -------------------------------------------------------------------------------------------------------------


def test_the_demo_needs_no_settings_and_gives_its_exit_code(run: Run, fake: Callable[..., None]) -> None:
    asked = []

    def run_demo(rows: int, rate: int, json: bool) -> int:
        asked.append((rows, rate, json))
        return 1

    fake("replicator.demo.run", run_demo=run_demo)
    assert run("demo") == (1, "", "")
    assert run("demo --rows 12 --rate 7 --json")[0] == 1
    assert asked == [(50_000, 300, False), (12, 7, True)]


# --- the status page --------------------------------------------------------------------------------------------------


def full() -> StatusDocument:
    """As much as there can be, and long."""
    return from_stored(
        {
            "migration": "a_migration_with_a_long_name",
            "phase": "backfill",
            "plugin": "wal2json",
            "lag_bytes": 12_345_678_901,
            "lag_seconds": 90_061.0,
            "applied_lsn": "FFFF/FFFFFFFF",
            "received_lsn": "FFFF/FFFFFFFF",
            "slot_retained_bytes": 999_999_999_999,
            "backfill": [
                {"table": f"a_long_table_name_{i}", "rows": i * 1_000_000, "expected": 123_456_789, "done": i == 0}
                for i in range(12)
            ],
            "backfill_seconds_remaining": 7_385.0,
            "divergence": [
                {
                    "table": "a_rather_long_table_name",
                    "missing": 1,
                    "extra": 2,
                    "different": 3,
                    "examples": [{"kind": "missing", "key": ["b5f5e1a0-0000-4000-8000-000000000001", "[/x]"]}],
                }
            ],
            "verify": {
                "text": "a full pass was clean at 2020-01-01 00:00:00 UTC",
                "passes": 12_345,
                "clean_at": "2020-01-01T00:00:00+00:00",
                "running": {"done": 1, "total": 3},
                "unsettled": 9,
            },
            "quarantined": [{"transform": "request", "rows": 2}, {"transform": "event", "rows": 0}],
            "gates": [
                Gate(name="lag", ok=False, detail="why " * 30),
                Gate(name="verify", ok=True, detail="[bold]clean"),
            ],
            "errors": [{"at": "2020-01-01T00:00:00+00:00", "kind": "connection", "text": "gone " * 30}],
            "daemon": {"pid": 1, "host": "db.example", "started_at": "2020-01-01T00:00:00+00:00", "version": "0.1.0"},
        }
    )


def shown(document: StatusDocument | None, *, age: float | None = 0.3, alive: bool = True, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(page.whole(Report(document=document, age_seconds=age, alive=alive)))
    return console.export_text()


def test_the_page_fits_into_80_columns_and_a_screen() -> None:
    lines = shown(full()).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 45


def test_the_page_says_all_of_it() -> None:
    said = shown(full(), width=200)
    for fact in (
        "a_migration_with_a_long_name  backfill",
        "daemon 0.1.0, process 1 on db.example",
        "the old schema owns it; the new tables follow",
        "12.3 GB, 1 d 1 h",
        "applied FFFF/FFFFFFFF",
        "keeps 1.0 TB of WAL",
        "a full pass was clean at 2020-01-01 00:00:00 UTC; 12,345 passes",
        "9 keys changed since; the next is at 33 %",
        "6 rows",
        "2 rows: request 2",
        "1,000,000 of 123,456,789",
        "3 more to copy, 1 of 12 sources done, about 2 h 3 min left",
        "missing: a_rather_long_table_name b5f5e1a0-0000-4000-8000-000000000001, [/x]",
        "no  lag     why why",
        "ok  verify  [bold]clean",
        "connection  gone gone",
    ):
        assert fact in said
    assert "no daemon runs" not in said


def test_the_tables_with_most_left_come_first() -> None:
    rows = [line for line in shown(full(), width=200).splitlines() if line.startswith("a_long_table_name_")]
    assert len(rows) == page.MOST_BARS
    assert rows[0].startswith("a_long_table_name_1 ")


def test_a_report_without_a_daemon_says_so_and_how_old_it_is() -> None:
    said = shown(full(), age=3_700, alive=False)
    assert "no daemon runs; this report is 1 h 1 min old" in said
    assert "process 1" not in said


def test_a_daemon_that_does_not_report_is_shown() -> None:
    assert "the daemon has not reported for 42 s" in shown(full(), age=42)
    assert "has not reported" not in shown(full(), age=2)


def test_before_the_first_start_the_page_says_what_to_do() -> None:
    said = "not started; `replicator check`, then `replicator run`"
    assert shown(None, age=None, alive=False) == f"{said}\n"
    assert page.line(Report(document=None, age_seconds=None, alive=False)) == said
    assert shown(None, age=None, alive=True) == "the daemon is starting\n"


def test_a_finished_backfill_is_one_line() -> None:
    document = blank("m")
    document["backfill"] = [{"table": name, "rows": 700, "expected": 9, "done": True} for name in ("a", "b")]
    said = shown(document)
    assert "done: 1,400 rows of 2 sources" in said
    assert "━" not in said


def test_what_had_to_be_remembered_for_the_way_back_is_no_backfill() -> None:
    document = from_stored({"cutover_write_pause_seconds": 0.1})
    document["backfill"] = [{"table": "a", "rows": 2, "expected": 2, "done": True}]
    assert "Backfill" not in shown(document)


def test_readiness_and_the_pause_are_shown() -> None:
    document = from_stored(
        {"phase": "soak", "owner": "new", "direction": "reverse", "cutover_write_pause_seconds": 0.0123, "ready": True}
    )
    said = shown(document)
    assert "ready for the cutover" in said
    assert "the new schema owns it; the old tables follow" in said
    assert "writers waited 12 ms" in said


def test_once_it_is_over_nothing_else_matters() -> None:
    report = Report(document=from_stored({"phase": "finalized"}), age_seconds=99.0, alive=False)
    assert page.line(report) == "finalized: over; the old tables may go"


def test_one_line_has_all_that_matters() -> None:
    assert page.line(Report(document=full(), age_seconds=0.1, alive=True)) == (
        "backfill, lag 12.3 GB, backfill 4 %, divergence 6, quarantined 2, gates 1/2"
    )
    assert page.line(Report(document=full(), age_seconds=60.0, alive=False)).endswith(
        "gates 1/2, no daemon runs; this report is 1 min old"
    )


def test_the_json_is_the_document_with_what_is_known_about_the_daemon() -> None:
    report = page.as_json(Report(document=full(), age_seconds=0.5, alive=True))
    assert report == {"daemon_alive": True, "age_seconds": 0.5, **full()}
    assert page.as_json(Report(document=None, age_seconds=None, alive=False)) == {
        "daemon_alive": False,
        "age_seconds": None,
        "phase": None,
        "ready": False,
    }


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, expected",
    [
        (None, "not measured"),
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (16_900_000, "16.9 MB"),
        (2_500_000_000_000, "2.5 TB"),
        (10**16, "10,000.0 TB"),
    ],
)
def test_sizes(size: int | None, expected: str) -> None:
    assert text.sized(size) == expected


@pytest.mark.parametrize(
    "seconds, expected",
    [
        (None, "not measured"),
        (0.0, "0.0 s"),
        (-3.0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (3_661, "1 h 1 min"),
        (90_061, "1 d 1 h"),
        (86_400, "1 d"),
    ],
)
def test_durations(seconds: float | None, expected: str) -> None:
    assert text.lasting(seconds) == expected


@pytest.mark.parametrize("seconds, expected", [(0.0004, "0 ms"), (0.0123, "12 ms"), (1.3, "1.3 s")])
def test_pauses(seconds: float, expected: str) -> None:
    assert text.pause(seconds) == expected


def test_a_time_that_cannot_be_read_is_shown_as_it_is() -> None:
    assert text.clock("yesterday") == "yesterday"
    assert text.since("yesterday") is None
    assert text.since(None) is None


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored, expected", [(3, 3), (1, 1), (2, 2), (None, 1), (0, 1), (77, 1)])
def test_a_refusal_has_the_exit_code_that_is_stored(stored: int | None, expected: int) -> None:
    command = Command(
        id=1,
        command="cutover",
        arguments={},
        started_at=None,
        progress=None,
        finished_at=None,
        exit_code=stored,
        result=None,
    )
    refused = RefusedError(command)
    assert (int(refused.exit_code), refused.problem) == (expected, "The cutover failed.")
    assert refused.kind == ("not_ready" if expected == 3 else "failed")


@pytest.mark.parametrize("others", ["--rolling", "--complete", "--set-search-path app"])
def test_a_renaming_goes_with_no_other_way(run: Run, settings: None, others: str) -> None:
    code, _, messages = run(f"cutover --strategy rename {others}")
    assert code == ExitCode.WRONG_USE
    assert "--strategy rename leaves one schema only" in messages


def test_a_strategy_that_is_none(run: Run, settings: None) -> None:
    code, _, messages = run("cutover --strategy swap")
    assert code == ExitCode.WRONG_USE
    assert "swap" in messages
