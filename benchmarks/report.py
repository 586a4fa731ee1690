"""The table, for the terminal and for the README."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.lines import Goal, Line, Outcome, Spread

COLUMNS = ("work", "replicator", "against", "peer", "ratio", "goal", "met")
NOT_MEASURED = "not measured"


def cells(outcome: Outcome) -> tuple[str, ...]:
    """A line in words, a text for each column."""
    line, ours, peer, ratio = outcome.line, outcome.ours, outcome.peer, outcome.ratio
    goal = str(line.goal)
    if ours is None:
        return line.work, f"{NOT_MEASURED}: {outcome.missing}", line.against, "", "", goal, ""
    return (
        line.work,
        _figure(ours, line.unit),
        line.against,
        _figure(peer, line.unit) if peer else "",
        _ratio(ratio) if ratio else "",
        goal,
        {True: "yes", False: "no", None: ""}[outcome.met],
    )


def as_table(outcomes: Sequence[Outcome], title: str) -> Table:
    """For the terminal."""
    table = Table(*COLUMNS, title=title, title_justify="left")
    for outcome in outcomes:
        *words, met = cells(outcome)
        colour = {"yes": "green", "no": "red", "": ""}[met]
        table.add_row(*map(Text, words), Text(met, style=colour))
    return table


def as_markdown(lines: Sequence[Line], kept: Mapping[str, Any]) -> str:
    """For the README, from what is kept."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for line in lines:
        found = kept.get("lines", {}).get(line.work, {"missing": "it is not among the kept figures"})
        rows.append(_kept_cells(line, found))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _kept_cells(line: Line, found: Mapping[str, Any]) -> tuple[str, ...]:
    spreads = {
        name: Spread(value=found[name][0], least=found[name][1], largest=found[name][2])
        for name in ("ours", "peer", "ratio")
        if name in found
    }
    if "ours" not in spreads:
        return line.work, f"{NOT_MEASURED}: {found['missing']}", line.against, "", "", str(line.goal), ""
    peer, ratio = spreads.get("peer"), spreads.get("ratio")
    met = line.goal.met(spreads["ours"].value, ratio.value if ratio else None) if line.goal != Goal() else None
    return (
        line.work, _figure(spreads["ours"], line.unit), line.against, _figure(peer, line.unit) if peer else "",
        _ratio(ratio) if ratio else "", str(line.goal), {True: "yes", False: "no", None: ""}[met],
    )  # fmt: skip


def _figure(spread: Spread, unit: str) -> str:
    return f"{_number(spread.value)} {unit}{_around(spread)}"


def _ratio(spread: Spread) -> str:
    return f"{spread.value:.2f}x{_around(spread)}"


def _around(spread: Spread) -> str:
    if spread.least == spread.largest:
        return ""
    return f" ({_number(spread.least)} to {_number(spread.largest)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
