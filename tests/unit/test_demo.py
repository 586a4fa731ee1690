"""What of the demo needs no server: its ledger, its choice of transactions, its settings, its display."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from replicator.demo import home, presenter, processes
from replicator.demo.application import Found
from replicator.demo.home import HomeError, find_home
from replicator.demo.ledger import Entry, Ledger
from replicator.demo.presenter import Scene
from replicator.demo.processes import DemoError, Process, settings_for
from replicator.demo.seed import ADMINS
from replicator.demo.tally import Tally
from replicator.demo.task import Keys, Task, Write
from replicator.demo.verdict import Figures
from replicator.demo.workload import Workload
from replicator.observe.status import Gate, blank
from replicator.settings import Settings
from replicator.terminal import output


class Side:
    """An application that writes nothing; new ids are spelt in capitals."""

    tables: ClassVar[frozenset[str]] = frozenset({"requests", "settings"})
    versions: ClassVar[Mapping[str, str]] = {}

    def __init__(self, schema: str, *, capitals: bool = False) -> None:
        self.schema = schema
        self._capitals = capitals

    def spelling(self, _table: str, key: str) -> str:
        return key.upper() if self._capitals else key


OLD: Any = Side("old")
NEW: Any = Side("new", capitals=True)


def entries(*rows: tuple[str, str, str | None]) -> list[Entry]:
    return [Entry(*row, "old") for row in rows]


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_what_is_there_as_acknowledged_is_not_lost() -> None:
    ledger = Ledger(entries(("requests", "a", "1"), ("requests", "b", "1"), ("requests", "b", None)))
    assert ledger.lost(OLD, {("requests", "a"): "1"}) == []
    assert ledger.lost(NEW, {("requests", "A"): "1"}) == []


@pytest.mark.parametrize(
    "held, complaint",
    [
        ({}, "no row in the schema old; acknowledged was the version '2'"),
        ({("requests", "a"): "1"}, "the version '1' in the schema old; acknowledged was the version '2'"),
        (
            {("requests", "a"): "2", ("requests", "b"): "1"},
            "the version '1' in the schema old; acknowledged was no row",
        ),
        (
            {("requests", "a"): "2", ("requests", "c"): "9"},
            "the version '9' in the schema old; acknowledged was no row",
        ),
    ],
    ids=["missing", "stale", "deleted", "never written"],
)
def test_what_is_not_as_acknowledged_is_lost(held: Found, complaint: str) -> None:
    ledger = Ledger(entries(("requests", "a", "1"), ("requests", "b", "1")))
    ledger.enter(entries(("requests", "a", "2"), ("requests", "b", None)))
    [lost] = ledger.lost(OLD, held)
    assert complaint in str(lost)


def test_a_table_that_a_side_does_not_know_is_not_looked_up_there() -> None:
    assert Ledger(entries(("notifications", "a", "1"))).lost(NEW, {}) == []


def test_a_later_ledger_wins() -> None:
    ledger = Ledger(entries(("requests", "a", "1"), ("settings", "k", "1")))
    ledger.merge(Ledger([Entry("requests", "a", "2", "new")]))
    assert ledger.lost(OLD, {("requests", "a"): "2", ("settings", "k"): "1"}) == []
    assert ledger.written_to("new") == {("requests", "a")}
    assert len(ledger) == 2


def test_a_ledger_goes_through_a_file(tmp_path: Path) -> None:
    ledger = Ledger(entries(("requests", "á", "1"), ("settings", "k", None)))
    ledger.save(tmp_path / "ledger")
    assert Ledger.load(tmp_path / "ledger").lost(OLD, {("requests", "á"): "1"}) == []
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]


def test_a_row_born_in_the_new_schema_is_entered_under_its_new_id() -> None:
    task = Task(lambda _: None, (Write("requests", "a", "1", born=True), Write("settings", "k", "1")))
    assert [entry.key for entry in task.entries(NEW)] == ["A", "k"]
    assert [entry.key for entry in task.entries(OLD)] == ["a", "k"]


def test_nothing_is_entered_of_what_was_rolled_back_or_has_no_place() -> None:
    assert Task(lambda _: None, (Write("requests", "a", "1"),), rolls_back=True).entries(OLD) == []
    assert Task(lambda _: None, (Write("notifications", "a", "1"),)).entries(NEW) == []


# --- what is written --------------------------------------------------------------------------------------------------


class Everything(Side):
    tables: ClassVar[frozenset[str]] = frozenset(
        {"requests", "settings", "admins", "event_settings", "spotify_auth", "notifications", "oauth_sessions"}
    )


SEEDED: Found = {
    **{("requests", str(number)): "0" for number in range(100)},
    **{("admins", admin): "0" for admin in ADMINS},
    ("settings", "party_name"): "0",
    ("event_settings", "1"): "0",
    ("spotify_auth", "1"): "0",
}


def test_no_two_writers_write_the_same_row() -> None:
    application: Any = Everything("old")
    places = []
    for worker in range(3):
        workload = Workload(SEEDED, worker=worker, workers=3)
        written = set()
        for _ in range(1000):
            done = workload.next().entries(application)
            workload.done(done)
            written |= {entry.place for entry in done}
        places.append(written)
    assert all(len(written) > 300 for written in places)
    assert len(set().union(*places)) == sum(len(written) for written in places)


def test_every_table_is_written_to_and_deleted_from() -> None:
    application: Any = Everything("old")
    workload = Workload(SEEDED)
    seen = set()
    for _ in range(3000):
        done = workload.next().entries(application)
        workload.done(done)
        seen |= {(entry.table, entry.version is None) for entry in done}
    deleted = Everything.tables - {"event_settings"}
    assert seen == {(table, False) for table in Everything.tables} | {(table, True) for table in deleted}


def test_every_write_has_a_version_of_its_own() -> None:
    application: Any = Everything("old")
    workload = Workload(SEEDED)
    versions = []
    for _ in range(500):
        done = workload.next().entries(application)
        workload.done(done)
        versions += [(entry.place, entry.version) for entry in done if entry.version is not None]
    assert len(versions) == len(set(versions))


def test_keys_are_added_and_removed() -> None:
    keys = Keys()
    for key in ("a", "b", "c", "b"):
        keys.add(key)
    keys.discard("a")
    keys.discard("x")
    assert len(keys) == 2
    assert "a" not in keys
    assert sorted(keys.some(random.Random(), 9)) == ["b", "c"]


# --- how it is run ----------------------------------------------------------------------------------------------------


def test_nothing_of_the_users_settings_reaches_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPLICATOR_TARGET_DSN", "REPLICATOR_SLOT", "REPLICATOR_UNHEARD_OF", "PGHOST"):
        monkeypatch.setenv(name, "precious")
    environment = settings_for("postgresql://demo")
    assert "precious" not in environment.values()
    named = {f"REPLICATOR_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in environment if name.startswith("REPLICATOR_")} == named
    assert environment["REPLICATOR_SOURCE_DSN"] == environment["REPLICATOR_TARGET_DSN"] == "postgresql://demo"


def test_without_the_reference_migration_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(home, "__file__", str(tmp_path / "replicator" / "demo" / "home.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HomeError, match=r"transforms/ and sql/, is not in .*clone"):
        find_home()


def test_the_working_directory_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = find_home()
    monkeypatch.setattr(home, "__file__", str(tmp_path / "replicator" / "demo" / "home.py"))
    monkeypatch.chdir(root)
    assert find_home() == root


@pytest.mark.parametrize(
    "script, complaint",
    [
        ("import os; os.kill(os.getpid(), 9)", "The trial got killed by SIGKILL."),
        ("raise SystemExit(3)", "The trial ended with exit code 3."),
        (
            "import sys; sys.exit('error: it is so.\\n  what to do: that')",
            "The trial ended with exit code 1: it is so.",
        ),
    ],
)
def test_why_a_process_has_ended(tmp_path: Path, script: str, complaint: str) -> None:
    (tmp_path / "trial.py").write_text(script)
    process = Process("trial", ["trial"], tmp_path, tmp_path, {})
    try:
        with pytest.raises(DemoError) as raised:
            process.wait()
        assert str(raised.value) == complaint
    finally:
        process.kill()


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match=r"`replicator schema --no-such` exited with 2: No such option"):
        processes.command(
            ["schema", "--no-such"], tmp_path, find_home(), settings_for("postgresql://x"), meanwhile=lambda: None
        )


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_last_line() -> None:
    figures = Figures(postgres=18, requests=1, rate=1, write_pause_seconds=0.0126)
    assert figures.good
    assert figures.last_line == "demo: cutover complete, write pause 13 ms, divergence 0, lost writes 0"


@pytest.mark.parametrize("wrong", [{"divergence": 1}, {"lost_writes": 1}, {"errors": {"UniqueViolation": 1}}])
def test_one_thing_wrong_is_enough(wrong: dict[str, Any]) -> None:
    figures = Figures(postgres=18, requests=1, rate=1, **wrong)
    assert not figures.good
    assert figures.as_json()["ok"] is False


def test_it_fits_on_a_small_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, width=80, height=24, color_system=None, _environ={})
    monkeypatch.setattr(presenter, "messages", lambda: console)
    document = blank("party")
    document["backfill"] = [
        {"table": "requests", "rows": 12_345, "expected": 50_000, "done": False},
        {"table": "admins", "rows": 3, "expected": 3, "done": True},
    ]
    names = ("backfill", "lag", "verified", "quarantine", "schema", "checks")
    document["gates"] = [Gate(name=name, ok=name == "schema", detail="a detail") for name in names]
    tally = Tally(errors={"UniqueViolation": 2})  # type: ignore[arg-type]
    tally.acknowledged("public", 0.002, rolled_back=False)
    with console.capture() as captured, presenter.make_show(quiet=False) as page:
        page.say("a step is done")
        page.doing("until something is so")
        page.draw(Scene(document=document, tally=tally, rate=299.6, slowest=0.0123))
    shown = captured.get()
    for fact in (
        "a step is done",
        "until something is so",
        "300 transactions/s",
        "12 ms",
        "2 failed",
        "12,345 of 50,000",
    ):
        assert fact in shown
    assert "  ".join(names) in shown


def test_off_a_terminal_there_is_a_line_for_each_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not output.messages().is_terminal
    with presenter.make_show(quiet=False) as lines, presenter.make_show(quiet=True) as nothing:
        nothing.say("not this")
        lines.doing("not this either")
        lines.say("one [step]")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith("s  one [step]\n")
    assert "not this" not in shown.err
