"""A line of the table: what is measured, against what, and the goal; and what came of it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a line is to show; bounds that are None do not count.

    ``ratio`` is of replicator's figure to its peer's, in the unit of the line; ``value`` is replicator's own figure.
    """

    least_ratio: float | None = None
    most_ratio: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        said = [
            f"≥ {self.least_ratio:g}x" if self.least_ratio is not None else "",
            f"≤ {self.most_ratio:g}x" if self.most_ratio is not None else "",
            f"≤ {self.most:g}" if self.most is not None else "",
        ]
        return ", ".join(filter(None, said))

    def met(self, value: float, ratio: float | None) -> bool:
        """Whether each bound holds; without a peer's figure, a bound of the ratio does not."""
        if self.most is not None and value > self.most:
            return False
        if ratio is None:
            return self.least_ratio is None and self.most_ratio is None
        return ratio >= (self.least_ratio or 0.0) and ratio <= (self.most_ratio or math.inf)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line. ``percentile`` is what is told of the single figures: 50 is the median."""

    work: str
    against: str = ""
    unit: Literal["rows/s", "changes/s", "ms", "MB"]
    goal: Goal = field(default_factory=Goal)
    percentile: float = 50.0

    @property
    def more_is_better(self) -> bool:
        """Whether it is a rate."""
        return self.unit.endswith("/s")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The figures of one round: replicator's, and the peer's if there is one; one each, or many (of each write)."""

    ours: Sequence[float]
    peer: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over all rounds, with the least and the largest of a round."""

    value: float
    least: float
    largest: float


@dataclass(kw_only=True)
class Outcome:
    """What came of a line: its rounds, or why there are none."""

    line: Line
    rounds: list[Pair] = field(default_factory=list)
    missing: str = ""

    @property
    def ours(self) -> Spread | None:
        """Replicator's figure."""
        return spread([each.ours for each in self.rounds if each.ours], self.line.percentile)

    @property
    def peer(self) -> Spread | None:
        """The peer's figure."""
        return spread([each.peer for each in self.rounds if each.peer], self.line.percentile)

    @property
    def ratio(self) -> Spread | None:
        """Replicator's figure in terms of the peer's; least and largest are those within one round."""
        ours, peer = self.ours, self.peer
        if ours is None or peer is None or not peer.value:
            return None
        of = self.line.percentile
        rounds = [
            percentile(each.ours, of) / percentile(each.peer, of)
            for each in self.rounds
            if each.ours and each.peer and percentile(each.peer, of)
        ]
        # Rounds are compared with themselves: what slows the machine for a while slows both.
        return Spread(value=statistics.median(rounds), least=min(rounds), largest=max(rounds)) if rounds else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is; None: there is none, or nothing was measured."""
        if self.ours is None or not str(self.line.goal):
            return None
        return self.line.goal.met(self.ours.value, self.ratio.value if self.ratio else None)

    def as_json(self) -> dict[str, Any]:
        """What is kept: the figure, its peer's and the ratio, or why nothing was measured."""
        if self.ours is None:
            return {"missing": self.missing or "it was not measured"}
        spreads: Mapping[str, Spread | None] = {"ours": self.ours, "peer": self.peer, "ratio": self.ratio}
        return {"unit": self.line.unit, "rounds": len(self.rounds)} | {
            name: [_short(each.value), _short(each.least), _short(each.largest)]
            for name, each in spreads.items()
            if each is not None
        }


def spread(rounds: Sequence[Sequence[float]], of: float) -> Spread | None:
    """A percentile over rounds: the median of the rounds; of a tail, that of all figures together.

    A round's own tail rests on few figures, so a median of tails would hide the worst of them.
    """
    if not rounds:
        return None
    each = [percentile(figures, of) for figures in rounds]
    value = statistics.median(each) if of == 50 else percentile([one for figures in rounds for one in figures], of)
    return Spread(value=value, least=min(each), largest=max(each))


def percentile(figures: Sequence[float], of: float) -> float:
    """By the nearest rank, save for the median."""
    if of == 50:
        return statistics.median(figures)
    ordered = sorted(figures)
    return ordered[max(0, math.ceil(of / 100 * len(ordered)) - 1)]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
