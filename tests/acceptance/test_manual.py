"""The manual's promises: its tables are the code's, its sentences are said, its links lead somewhere."""

import ast
import inspect
import json
import re

import pytest
import yaml
from prometheus_client import CollectorRegistry

from replicator.cli.help import EXIT_CODES
from replicator.cli.prepare import Part
from replicator.migration import Migration
from replicator.observe.http import HttpServer
from replicator.observe.metrics import Metrics
from replicator.preflight.server_checks import OLDEST
from replicator.settings import describe_settings
from replicator.switchover.phases import Phase
from tests.acceptance.manual import COMMANDS, options, said
from tests.acceptance.terminal import ROOT
from tests.command_line import split
from tests.pages import MANUAL, PAGES, README, anchors, broken, code, links, prose, section, tables

TEXT = "\n".join(MANUAL.values())


# --- the tables are the code's ----------------------------------------------------------------------------------------


def test_every_setting() -> None:
    (rows,) = tables(section("Settings"))
    shown = [(code(name), "-" if default == "none" else code(default), meaning) for name, default, meaning in rows]
    assert shown == describe_settings()


def test_every_metric() -> None:
    metrics = Metrics()
    known = []
    for collector in metrics.registry._collector_to_names:
        (family,) = collector.describe()  # type: ignore[attr-defined]  # what we register has it
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)  # type: ignore[attr-defined]
        known.append([f"`{name}`", family.type, labels, family.documentation])
    (rows,) = tables(section("Metrics"))
    assert rows == known


def test_every_path_of_the_http_server() -> None:
    server = HttpServer("127.0.0.1:0", CollectorRegistry(), dict, lambda: None, lambda: None)
    (rows,) = tables(section("HTTP"))
    of_the_daemon = {"/history", "/journal"}
    assert {code(path) for path, _ in rows} == set(server._app._pages) | of_the_daemon


def test_every_alert() -> None:
    (rows,) = tables(section("Alerts"))
    shown = {name: severity for names, severity, _ in rows for name in code(names).replace("`", "").split(", ")}
    (group,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    assert shown == {rule["alert"]: rule["labels"]["severity"] for rule in group["rules"]}


def test_every_phase() -> None:
    (rows,) = tables(section("Phases"))
    assert [code(phase) for phase, _ in rows] == [str(phase) for phase in Phase if phase != Phase.NEW]


def test_every_exit_code() -> None:
    (rows,) = tables(section("Exit codes"))
    assert [tuple(row) for row in rows] == list(EXIT_CODES)


def test_the_oldest_server() -> None:
    assert f"It works with Postgres {OLDEST // 10000} and later" in README


# --- commands ---------------------------------------------------------------------------------------------------------


def test_every_command_with_every_option() -> None:
    rows = tables(section("Commands"))[0]
    shown = {split(row[0].replace("`", "").split()[1:])[0]: set(re.findall(r"--[\w-]+", row[0])) for row in rows}
    assert shown == {name: options(name) for name in COMMANDS}
    (schema,) = (row[0] for row in rows if "replicator schema" in row[0])
    assert re.findall(r"\[(\w+)\]", schema) == [str(part) for part in Part]


def shown_commands() -> list[list[str]]:
    """Every ``replicator ...`` in the manual, in the text or in a block."""
    spans = re.findall(r"`replicator\s([^`]*)`", TEXT)
    lines = [
        line for text in re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) for line in text.splitlines()
    ]
    called = [line.removeprefix("replicator ") for line in lines if line.startswith("replicator ")]
    return [each.split("#")[0].replace("[", "").replace("]", "").split() for each in spans + called]


def test_every_command_that_is_shown_exists() -> None:
    shown = [words for words in shown_commands() if words and words != ["..."]]
    assert len(shown) > 20
    for words in shown:
        name, arguments = split(words)
        assert {each for each in arguments if each.startswith("-")} <= options(name), f"{name} {arguments}"
        if name != "schema":
            words_of_ours = ("all", "rename", "users")
            assert all(
                each.startswith("-") or each.isupper() or each.isdigit() or each in words_of_ours for each in arguments
            ), arguments


# --- sentences and links ----------------------------------------------------------------------------------------------


def sentences() -> list[str]:
    rows = [row for table in tables(MANUAL["docs/operator/troubleshooting.md"]) for row in table]
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row[0])]
    return [span for span in spans if " " in span or "…" in span]


def test_every_error_is_said_like_this() -> None:
    program = said()
    shown = sentences()
    assert len(shown) > 30
    assert [each for each in shown if each.removeprefix("…").removesuffix("…").strip() not in program] == []


def test_every_section_that_an_error_names() -> None:
    named = re.findall(r"see (docs/[\w/-]+\.md), ([A-Z]\w*(?: \w+)*)", said())
    assert len(named) >= 3
    assert [(page, title) for page, title in named if title.lower().replace(" ", "-") not in anchors(PAGES[page])] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    assert broken(name) == []


def test_there_are_links_to_follow() -> None:
    found = [link for text in PAGES.values() for link in links(text)]
    assert len(found) > 50
    assert sum(bool(anchor) for _, anchor in found) > 25


def test_a_link_that_leads_nowhere_is_found() -> None:
    pages = {"docs/a.md": "# A\n[b](b.md) [c](../README.md#no-such) [d](#a) [e](#f)\n```\n[g](g.md)\n```\n"}
    assert broken("docs/a.md", PAGES | pages) == ["b.md", "../README.md#no-such", "#f"]


def test_the_readme_is_short() -> None:
    """It is for the first ten minutes; all else has a page of its own."""
    assert len(README.encode()) <= 14 * 1024


def test_every_page_is_found_from_the_readme() -> None:
    """A page that nothing leads to is read by nobody."""
    found: set[str] = set()
    left = {"README.md"}
    while left:
        name = left.pop()
        found.add(name)
        paths = [((ROOT / name).parent / path).resolve() for path, _ in links(PAGES[name]) if path]
        left |= {str(path.relative_to(ROOT)) for path in paths if path.is_relative_to(ROOT)} & PAGES.keys() - found
    assert {name for name in MANUAL if name not in found} == set()


@pytest.mark.parametrize("name", MANUAL)
def test_every_name_of_ours_is_known(name: str) -> None:
    """Settings, metrics, and the tables and functions of the two schemas."""
    page = MANUAL[name]
    settings = {setting for setting, _, _ in describe_settings()} | {"REPLICATOR_HOOK_EVENT", "REPLICATOR_"}
    assert set(re.findall(r"\bREPLICATOR_[A-Z_]*", page)) <= settings
    control = (ROOT / "replicator" / "postgres" / "control" / "control.sql").read_text()
    named = re.findall(r"\b(_replicator\.\w+|replicator\.(?:active_schema|use_new_schema|\w+(?=\(\))))", page)
    assert [each for each in named if not re.search(rf"{re.escape(each)}\b", control)] == []
    exposed = "\n".join(family.name for family in Metrics().registry.collect())
    metrics = re.findall(r"`replicator_((?!cutover`|restore_test|new_tables)\w+?)(?:_total)?`", page)
    assert [each for each in metrics if each not in exposed] == []


@pytest.mark.parametrize("name", MANUAL)
def test_every_block_can_be_read(name: str) -> None:
    for text in re.findall(r"^```python\n(.*?)^```", MANUAL[name], re.MULTILINE | re.DOTALL):
        ast.parse(text)
    for text in re.findall(r"^```json\n(.*?)^```", MANUAL[name], re.MULTILINE | re.DOTALL):
        json.loads(text)
    assert set(re.findall(r"^```(\w+)$", MANUAL[name], re.MULTILINE)) <= {"sql", "python", "json", "sh", "ini", "yaml"}


@pytest.mark.parametrize("name", MANUAL)
def test_every_call_that_an_author_makes_exists(name: str) -> None:
    called = re.findall(r"\bmigration\.(\w+)\(([^()]*)", MANUAL[name])
    for method, arguments in called:
        known = inspect.signature(getattr(Migration, method)).parameters
        assert set(re.findall(r"\b(\w+)=(?!=)", re.sub(r"\{[^}]*\}|\"[^\"]*\"", "", arguments))) <= known.keys(), method
    made = re.findall(r"\bMigration\(([^()]*)\)", MANUAL[name])
    fields = inspect.signature(Migration).parameters.keys()
    assert {each for arguments in made for each in re.findall(r"\b(\w+)=", arguments)} <= fields


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert {name for name in MANUAL if f" {name}\n" not in navigation} == set()


def test_every_file_that_is_named_is_there() -> None:
    text = "\n".join(map(prose, MANUAL.values()))
    named = set(re.findall(r"`((?:deploy|tests|transforms|docs)/[\w./-]*|[A-Z]+\.md)`", text))
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).exists()] == []
