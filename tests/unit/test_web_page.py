"""The page at ``/``: what it may do, and that it says what the documents hold."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from replicator.observe import history, web_page
from replicator.observe.history import History
from replicator.observe.next_steps import WAITED_FOR, next_steps
from replicator.switchover.phases import Phase
from tests.command_line import commands, split

SHUT = [{"name": "lag", "ok": False}, {"name": "verified", "ok": True}]
PAGE, STYLE, SCRIPT = (web_page.read(path)[1].decode() for path in ("/", "/page.css", "/page.js"))


# ---- the files


def test_nothing_is_loaded_from_elsewhere() -> None:
    assert re.findall(r'(?:src|href)="([^"]*)"', PAGE) == ["page.css", "page.js"]
    assert "://" not in PAGE + STYLE
    assert re.findall(r"\w+://[^\"]*", SCRIPT) == ["http://www.w3.org/2000/svg"], "a name, which is not loaded"
    assert re.findall(r'ask\("(\w+)"\)', SCRIPT) == ["status", "history", "journal"]


def test_text_cannot_become_code() -> None:
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", SCRIPT) == []
    assert "style=" not in PAGE, "the policy forbids it"
    assert re.findall(r"\son\w+=", PAGE) == []


def test_every_place_that_the_script_fills_is_there() -> None:
    wanted = re.findall(r'(?:\$|fill|shown)\("([\w-]+)"', SCRIPT)
    assert set(wanted) <= set(re.findall(r'id="([\w-]+)"', PAGE))


def test_every_phase_has_its_place() -> None:
    named = re.search(r"PHASES = \[(.*)\]", SCRIPT)
    between = re.search(r"BETWEEN = \{(.*)\}", SCRIPT)
    assert named
    assert between
    there = re.findall(r'"(\w+)"', named[1]) + re.findall(r"(\w+):", between[1])
    assert sorted(there) == sorted(map(str, Phase))


# ---- what comes next


@pytest.mark.parametrize("phase", [str(each) for each in Phase])
@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("way_back", ["open", "waits", "shut", "none"])
def test_each_command_that_is_named_exists(phase: str, ready: bool, way_back: str) -> None:
    steps = next_steps(phase, ready=ready, gates=SHUT, way_back=way_back)
    assert steps
    for each in steps:
        assert each["does"]
        if each["command"]:
            name, arguments = split(each["command"].split()[1:])
            known = {option for one in commands()[name].params for option in one.opts}
            assert set(arguments) <= known


def said(phase: str, *, ready: bool = False, way_back: str = "not yet") -> list[str]:
    return [each["command"] for each in next_steps(phase, ready=ready, gates=SHUT, way_back=way_back)]


def test_a_command_is_named_when_it_would_be_accepted() -> None:
    assert all(said(phase) == [""] for phase in WAITED_FOR)
    assert said("follow") == [""]
    assert next_steps("follow", ready=False, gates=SHUT, way_back="not yet")[0]["does"] == "The cutover waits for: lag."
    assert said("follow", ready=True) == ["replicator cutover", "replicator cutover --dry-run"]
    assert said("follow", ready=True, way_back="none")[0] == "replicator cutover --no-way-back"
    assert said("soak", way_back="open") == ["replicator finalize", "replicator rollback"]
    assert said("soak", way_back="waits") == ["replicator finalize"]
    assert said("rolling", way_back="shut") == [""]
    opened = next_steps("rolling", ready=False, gates=[], way_back="open")
    assert [each["command"] for each in opened] == ["replicator cutover --complete", "replicator rollback"]
    assert said("finalized", way_back="over") == ["replicator cleanup"]


# ---- the lag's history


def test_a_sample_is_the_worst_of_its_seconds() -> None:
    kept, start = History(), datetime(2026, 1, 1, tzinfo=UTC)
    for second, lag in enumerate([0.1, 2.0, None, 0.3, 0.2, 0.7]):
        kept.note(start + timedelta(seconds=second), lag, None if lag is None else int(lag * 10))
    assert kept.samples() == [
        {"at": "2026-01-01T00:00:00+00:00", "lag_seconds": 2.0, "lag_bytes": 20},
        {"at": "2026-01-01T00:00:05+00:00", "lag_seconds": 0.7, "lag_bytes": 7},
    ]


def test_half_an_hour_is_kept() -> None:
    kept, start = History(), datetime(2026, 1, 1, tzinfo=UTC)
    for minute in range(history.SAMPLES + 3):
        kept.note(start + timedelta(seconds=history.SECONDS * minute), float(minute), None)
    assert [each["lag_seconds"] for each in kept.samples()][:: history.SAMPLES - 1] == [3.0, history.SAMPLES + 2.0]
