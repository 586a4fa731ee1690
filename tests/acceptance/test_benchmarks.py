"""`make bench` runs, each benchmark with sizes that tell nothing of speed; what is kept of it, and what is reported."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from benchmarks import kept, page, run
from benchmarks.benchmark import Benchmark, Round
from benchmarks.catalogue import BENCHMARKS, CURVES
from benchmarks.ground import Ground, Missing
from benchmarks.lines import Goal, Line, Outcome, Pair
from benchmarks.plots import draw, file_of
from benchmarks.report import as_markdown, cells
from benchmarks.scale import FULL, QUICK, TINY
from replicator.terminal.output import messages

LINES = [line for each in BENCHMARKS for line in each.lines]
RATE = Line(work="copying", against="a peer", unit="rows/s", goal=Goal(least_ratio=0.5))
MILLISECONDS = Line(work="waiting", against="a peer", unit="ms", goal=Goal(most=30), percentile=99)
HERE = {"hardware": "this one"}


SAME_CODE = ("backfill sql", "backfill workers", "follow python")
"""As others with another kind of transforms or another setting: each costs seconds."""


@pytest.mark.timeout(600)
def test_each_benchmark_runs() -> None:
    chosen = [each for each in BENCHMARKS if each.name not in SAME_CODE]
    assert len(chosen) == len(BENCHMARKS) - len(SAME_CODE)
    found = run.run(TINY, chosen, (), messages())
    assert found.failures == []
    assert [each.line for each in found.outcomes] == [line for each in chosen for line in each.lines]
    without = {each.line.work: each.missing for each in found.outcomes if each.ours is None}
    assert [name for name in without if "pgcopydb" not in name] == [], without
    assert all(each.peer is not None for each in found.outcomes if each.ours is not None)


@contextmanager
def impossible(_: Ground) -> Iterator[Round]:
    yield lambda _: missing("there is no such peer")


@contextmanager
def broken(_: Ground) -> Iterator[Round]:
    yield lambda _: broke()


@contextmanager
def interrupted(_: Ground) -> Iterator[Round]:
    yield lambda _: interrupt()


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


def missing(why: str) -> NoReturn:
    raise Missing(why)


def broke() -> NoReturn:
    raise TimeoutError("it took too long")


def test_what_cannot_be_measured_is_shown_and_the_others_go_on() -> None:
    made = [Benchmark(name=each.__name__, lines=(RATE,), opened=each) for each in (impossible, broken, interrupted)]
    found = run.run(TINY, made, (), messages())
    assert [each.missing for each in found.outcomes] == ["there is no such peer", "it failed"]
    assert found.failures == [
        "broken: TimeoutError: it took too long",
        "It was interrupted: the rest was not measured.",
    ]


def test_ratios_are_those_of_the_rounds() -> None:
    outcome = Outcome(
        line=RATE, rounds=[Pair(ours=[10], peer=[20]), Pair(ours=[1], peer=[4]), Pair(ours=[90], peer=[100])]
    )
    assert outcome.ours is not None
    assert outcome.ratio is not None
    assert (outcome.ours.value, outcome.ours.least, outcome.ours.largest) == (10, 1, 90)
    assert (outcome.ratio.value, outcome.ratio.least, outcome.ratio.largest) == (0.5, 0.25, 0.9)
    assert outcome.met is True


def test_a_tail_is_that_of_all_figures() -> None:
    outcome = Outcome(line=MILLISECONDS, rounds=[Pair(ours=[1.0] * 99 + [50.0]), Pair(ours=[1.0] * 98 + [70.0, 80.0])])
    assert outcome.ours is not None
    assert outcome.ours.value == 50.0
    assert outcome.met is False


@pytest.mark.parametrize(
    ("goal", "value", "ratio", "met"),
    [
        (Goal(least_ratio=0.5), 1, 0.5, True),
        (Goal(least_ratio=0.5), 1, 0.49, False),
        (Goal(least_ratio=0.5), 1, None, False),
        (Goal(most_ratio=1.5), 1, 1.6, False),
        (Goal(most_ratio=1.5), 1, None, False),
        (Goal(most=30), 30, None, True),
        (Goal(most=30, most_ratio=1.5), 31, 1.0, False),
        (Goal(most=30, most_ratio=1.5), 10, 2.0, False),
    ],
)
def test_goals(goal: Goal, value: float, ratio: float | None, met: bool) -> None:
    assert goal.met(value, ratio) is met


def outcome(line: Line, ours: float, peer: float | None = None) -> Outcome:
    return Outcome(line=line, rounds=[Pair(ours=[ours], peer=[] if peer is None else [peer])])


def kept_of(*outcomes: Outcome) -> dict[str, Any]:
    return {"machine": HERE, "lines": {each.line.work: each.as_json() for each in outcomes}, "curves": {}}


@pytest.mark.parametrize(
    ("before", "now", "machine", "reported"),
    [
        (outcome(RATE, 100, 100), outcome(RATE, 81, 100), HERE, False),
        (outcome(RATE, 100, 100), outcome(RATE, 79, 100), HERE, True),
        (outcome(RATE, 100, 100), outcome(RATE, 79, 100), {"hardware": "another"}, True),
        (outcome(RATE, 100, 100), outcome(RATE, 50, 50), HERE, False),
        (outcome(MILLISECONDS, 10), outcome(MILLISECONDS, 12.1), HERE, True),
        (outcome(MILLISECONDS, 10), outcome(MILLISECONDS, 5), HERE, False),
        (outcome(MILLISECONDS, 10), outcome(MILLISECONDS, 50), {"hardware": "another"}, False),
        (outcome(RATE, 100, 100), Outcome(line=RATE, missing="it failed"), HERE, True),
        (Outcome(line=RATE, missing="there is none"), outcome(RATE, 1, 100), HERE, False),
    ],
)
def test_what_is_a_fifth_worse_is_reported(
    before: Outcome, now: Outcome, machine: dict[str, str], reported: bool
) -> None:
    found = kept.worse(kept_of(before), [now], machine)
    assert bool(found) is reported
    assert all(now.line.work in sentence for sentence in found)


def test_figures_are_kept_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    kept.write("full", kept_of(outcome(RATE, 100, 200), outcome(MILLISECONDS, 5)), file)
    kept.write("quick", kept_of(outcome(RATE, 1, 2)), file)
    kept.write("full", kept_of(outcome(RATE, 50, 200)), file)
    full = kept.read("full", file)
    assert full["lines"]["copying"]["ratio"] == [0.25, 0.25, 0.25]
    assert full["lines"]["waiting"]["ours"] == [5.0, 5.0, 5.0]
    assert kept.read("quick", file)["lines"]["copying"]["ours"] == [1.0, 1.0, 1.0]


def test_the_tables_show_what_was_not_measured() -> None:
    without = Outcome(line=RATE, missing="there is no peer")
    assert cells(without)[1] == "not measured: there is no peer"
    shown = as_markdown([RATE, MILLISECONDS], kept_of(without, outcome(MILLISECONDS, 12.5)))
    assert "| copying | not measured: there is no peer |" in shown
    assert "| waiting | 12.5 ms |" in shown


def test_the_page_has_the_kept_figures() -> None:
    text = page.FILE.read_text()
    written = text.partition(page.BEGIN)[2].partition(page.END)[0].strip()
    assert written == page.text(), "write it anew: python -c 'from benchmarks import page; page.write()'"
    curves = json.loads(kept.FILE.read_text()).get("full", {}).get("curves", {}) if kept.FILE.exists() else {}
    for curve in CURVES:
        assert file_of(curve).exists() is bool(curves.get(curve.name))


def test_a_plot_is_drawn_the_same_each_time(tmp_path: Path) -> None:
    points = {"100": {"rate": 5.0, "memory": 60.0}, "1000": {"rate": 50.0, "memory": 61.0}}
    drawn = []
    for name in ("a.svg", "b.svg"):
        draw(CURVES[0], points, tmp_path / name)
        drawn.append((tmp_path / name).read_text())
    assert drawn[0] == drawn[1]
    assert "rows in the table" in drawn[0]


def test_works_are_named_once() -> None:
    names = [line.work for line in LINES]
    assert len(set(names)) == len(names)
    assert QUICK.rounds > 1
    assert FULL.rounds > 2
