"""Runs benchmarks one after the other, with a progress bar; a failed one does not keep the others from running."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import machine
from benchmarks.benchmark import Benchmark, Curve, Point
from benchmarks.ground import Ground, Missing
from benchmarks.lines import Outcome
from benchmarks.scale import Scale
from benchmarks.works.backfill import DifferentError
from replicator.errors import ReplicatorError

FAILURES = (DifferentError, ReplicatorError, TimeoutError, OSError, psycopg.Error, subprocess.SubprocessError)


@dataclass
class Found:
    """What came of a run; ``failures`` are sentences."""

    machine: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    curves: dict[str, dict[int, Point]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class Bar:
    """The progress bar; off a terminal, a line for each round that is done."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        columns = (SpinnerColumn(), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, TextColumn("{task.description}"), console=console, transient=True)
        self._task: TaskID = self._progress.add_task("", total=rounds)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it for as long as this lasts."""
        if not self._console.is_terminal:
            yield
            return
        with self._progress:
            yield

    def doing(self, what: str) -> None:
        """What goes on now."""
        self._progress.update(self._task, description=what)

    def done(self, what: str, rounds: int = 1) -> None:
        """Rounds are done, or will not be."""
        self._progress.advance(self._task, rounds)
        if not self._console.is_terminal:
            self._console.print(what, markup=False)


def run(scale: Scale, benchmarks: Sequence[Benchmark], curves: Sequence[Curve], console: Console) -> Found:
    """Run all of them on one private server."""
    points = sum(len(curve.points(scale)) for curve in curves)
    bar = Bar(console, points + sum(each.rounds(scale) for each in benchmarks))
    found = Found()
    with bar.shown(), Ground.prepared(scale, bar.doing) as ground:
        found.machine = machine.describe(ground.cluster)
        try:
            for benchmark in benchmarks:
                _measure(ground, benchmark, bar, found)
            for curve in curves:
                _draw(ground, curve, bar, found)
        except KeyboardInterrupt:  # what took an hour is not lost for that
            found.failures.append("It was interrupted: the rest was not measured.")
    return found


def _measure(ground: Ground, benchmark: Benchmark, bar: Bar, found: Found) -> None:
    outcomes = {line.work: Outcome(line=line) for line in benchmark.lines}
    rounds, done = benchmark.rounds(ground.scale), 0
    why = ""
    try:
        with benchmark.opened(ground) as once:
            while done < rounds:
                for work, pair in once(done).items():
                    outcomes[work].rounds.append(pair)
                done += 1
                bar.done(f"{benchmark.name}: round {done} of {rounds}")
    except Missing as missing:
        why = str(missing)
    except FAILURES as error:
        why = "it failed"
        found.failures.append(f"{benchmark.name}: {type(error).__name__}: {error}")
    if done < rounds:
        bar.done(f"{benchmark.name}: {why}", rounds - done)
    for outcome in outcomes.values():
        outcome.missing = why
    found.outcomes += outcomes.values()


def _draw(ground: Ground, curve: Curve, bar: Bar, found: Found) -> None:
    points: dict[int, Point] = {}
    for size in curve.points(ground.scale):
        try:
            points[size] = curve.measure(ground, size)
        except FAILURES as error:
            found.failures.append(f"{curve.name}, {size:,}: {type(error).__name__}: {error}")
        bar.done(f"{curve.name}: {size:,}")
    found.curves[curve.name] = points
