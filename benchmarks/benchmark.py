"""What a benchmark is: its lines, and how it is run; and a curve, which has one figure for each of several sizes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from benchmarks.ground import Ground
from benchmarks.lines import Line, Pair
from benchmarks.scale import Scale

Round = Callable[[int], Mapping[str, Pair]]
"""Runs one round, numbered from 0, and returns the figures of each line by its ``work``."""


def usual_rounds(scale: Scale) -> int:
    """As many as the scale says."""
    return scale.rounds


def few_rounds(scale: Scale) -> int:
    """For what takes long."""
    return scale.long_rounds


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A group of lines that are measured together.

    ``opened`` prepares the ground and yields the round; it raises Missing where nothing can be measured.
    """

    name: str
    lines: Sequence[Line]
    opened: Callable[[Ground], AbstractContextManager[Round]]
    rounds: Callable[[Scale], int] = usual_rounds


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a curve: rows a second, and the most resident memory in megabytes."""

    rate: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Rate and memory over a size."""

    name: str
    over: str
    points: Callable[[Scale], Sequence[int]]
    measure: Callable[[Ground, int], Point]
    axis: Literal["log", "linear"] = "log"
