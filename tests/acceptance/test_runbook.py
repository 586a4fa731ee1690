"""The runbook and its neighbours name only what there is: commands, options, settings, alerts, sentences, files."""

import re

import pytest
import yaml

from replicator.settings import describe_settings
from replicator.switchover.phases import Phase
from tests.acceptance.manual import options, said
from tests.acceptance.terminal import ROOT
from tests.command_line import split
from tests.pages import tables

DEPLOY = ROOT / "deploy"
PAGES = {name: (DEPLOY / name).read_text() for name in ("RUNBOOK.md", "README.md", "examples/README.md")}
RUNBOOK = PAGES["RUNBOOK.md"]


def shown_commands(page: str) -> list[list[str]]:
    """Every ``replicator ...``, in the text or in a block of shell."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)
    lines = [line.strip() for text in blocks for line in text.splitlines()]
    called = [
        line.rpartition("replicator ")[2] for line in lines if re.match(r"(docker compose exec )?replicator ", line)
    ]
    return [each.split("#")[0].split() for each in re.findall(r"`replicator\s([^`]*)`", page) + called]


@pytest.mark.parametrize("name", PAGES)
def test_every_command_and_option_exists(name: str) -> None:
    for words in shown_commands(PAGES[name]):
        command, arguments = split(words)
        assert {each for each in arguments if each.startswith("-")} <= options(command), words


def test_the_runbook_goes_through_all_of_it() -> None:
    shown = {split(words)[0] for words in shown_commands(RUNBOOK)}
    assert shown >= {
        "check",
        "backup",
        "baseline",
        "dry-run",
        "run",
        "status",
        "verify",
        "cutover",
        "smoke",
        "rollback",
        "finalize",
        "abort",
        "cleanup",
    }
    assert len(shown_commands(RUNBOOK)) > 60


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_exists(name: str) -> None:
    known = {setting for setting, _, _ in describe_settings()}
    assert set(re.findall(r"\bREPLICATOR_[A-Z_]+", PAGES[name])) - {"REPLICATOR_PORT", "REPLICATOR_PASSWORD"} <= known


def test_every_alert_exists() -> None:
    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    assert set(re.findall(r"`(Replicator\w+)`", RUNBOOK)) <= {rule["alert"] for rule in group["rules"]}


def test_every_phase_says_how_to_go_back() -> None:
    back = RUNBOOK.split("## Going back, at any point")[1].split("## ")[0]
    assert [str(phase) for phase in Phase if phase != Phase.NEW and f"`{phase}`" not in back] == []


def test_every_symptom_is_said_like_this() -> None:
    """Those that are sentences; the rest are gates, phases and what an operator sees elsewhere."""
    (rows,) = tables(RUNBOOK.split("## When a step fails")[1].split("\n## ")[0])
    program = said()
    sentences = [span for row in rows for span in re.findall(r"`([^`]+)`", row[1]) if " " in span]
    assert len(sentences) >= 8
    assert [each for each in sentences if each.removesuffix("…").strip() not in program] == []


def test_every_command_of_the_tables_has_a_failure() -> None:
    """What an operator types may fail, and then has a row."""
    (rows,) = tables(RUNBOOK.split("## When a step fails")[1].split("\n## ")[0])
    covered = {split(words)[0] for row in rows for words in shown_commands(row[0])}
    assert covered >= {"check", "backup", "baseline", "run", "cutover", "rollback", "finalize", "cleanup", "dry-run"}


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_is_named_is_there(name: str) -> None:
    page = (DEPLOY / name).parent
    linked = re.findall(r"\]\((?!http|#)([^)]+)\)", PAGES[name])
    assert [each for each in linked if not (page / each.split("#")[0]).exists()] == []
    named = re.findall(r"`((?:deploy|tests)/[\w./-]+)`", PAGES[name])
    assert [each for each in named if not (ROOT / each).exists()] == []
