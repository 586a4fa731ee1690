"""The kept figures, `kept.json`, and what has become worse since."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from benchmarks.lines import Outcome

FILE = Path(__file__).with_name("kept.json")
WORSE = 0.20
"""By how much of the kept figure a line may be worse before it is reported."""

Kept = dict[str, Any]


def read(scale: str, file: Path = FILE) -> Kept:
    """What is kept of a scale: ``machine``, ``command``, ``lines`` and ``curves``; empty if nothing is."""
    if not file.exists():
        return {}
    return cast("Kept", json.loads(file.read_text()).get(scale, {}))


def write(scale: str, kept: Kept, file: Path = FILE) -> None:
    """Keep these in the place of the scale's figures; those of lines that were not asked for stay."""
    document = json.loads(file.read_text()) if file.exists() else {}
    before = document.get(scale, {})
    merged = {name: {**before.get(name, {}), **kept[name]} for name in ("lines", "curves")}
    document[scale] = {**before, **kept, **merged}
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def worse(kept: Mapping[str, Any], outcomes: Sequence[Outcome], machine: Mapping[str, str]) -> list[str]:
    """A sentence for each line that is more than a fifth worse than the kept one.

    Ratios to a peer are compared wherever the kept ones come from; figures themselves on the same machine only.
    """
    found = []
    for outcome in outcomes:
        before = kept.get("lines", {}).get(outcome.line.work, {})
        if "ours" not in before:
            continue
        if outcome.ours is None:
            found.append(f"{outcome.line.work}: it was kept as measured, and is not measured now: {outcome.missing}.")
            continue
        if outcome.ratio is not None and "ratio" in before:
            now, then, what = outcome.ratio.value, before["ratio"][0], "x its peer"
        elif kept.get("machine", {}).get("hardware") == machine.get("hardware"):
            now, then, what = outcome.ours.value, before["ours"][0], f" {outcome.line.unit}"
        else:
            continue
        if (now < then * (1 - WORSE)) if outcome.line.more_is_better else (now > then * (1 + WORSE)):
            found.append(f"{outcome.line.work}: {now:.3g}{what}; kept are {then:.3g}.")
    return found
