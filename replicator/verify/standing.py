"""Whether verification lets ownership move, in one sentence: the same for the gate, the status, and a refusal."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from replicator.verify.comparison import Divergence
from replicator.verify.settling import FINAL_KEYS


@dataclass(frozen=True, kw_only=True)
class Standing:
    """``text`` says why it is ``ok``, or why not and what to do."""

    ok: bool
    text: str


def standing(
    *,
    clean_at: datetime | None,
    divergences: Sequence[Divergence],
    unseen: Collection[str],
    left: int,
    whole: Collection[str],
    progress: tuple[int, int] | None,
) -> Standing:
    """What verification has come to.

    :param clean_at: when every row had been compared and nothing diverged; None if never since the daemon started.
    :param unseen: the source tables whose rows may have changed past the log.
    :param left: how many source keys the final check would have to compare.
    :param whole: the sources of which all rows have changed since they were compared.
    :param progress: rows compared by the pass that is running, and about how many there are.
    """
    if unseen:
        return _shut(
            f"rows of {_listed(unseen)} may have changed past the log: the table was rewritten or truncated, or a "
            "partition came or went; all are compared again, and mended"
        )
    if divergences:
        return _shut(advice(divergences))
    # Of a pass that another daemon made, nobody knows what has been touched since. guard: PASS_ANEW
    if clean_at is None and progress is not None:
        return _shut(f"no full pass has ended yet: {progress[0]:,} of about {progress[1]:,} rows are compared")
    if clean_at is None:
        return _shut("no full pass has ended yet")
    if left > FINAL_KEYS:
        rows = f"all rows of {_listed(whole)}" if whole else f"{left:,} rows"
        return _shut(
            f"{rows} have changed since they were compared, and are compared again; the cutover waits until there are "
            f"at most {FINAL_KEYS:,}"
        )
    return Standing(ok=True, text=f"a full pass was clean at {clean_at:%Y-%m-%d %H:%M:%S} UTC")


def advice(divergences: Sequence[Divergence], *, repaired: bool = False) -> str:
    """How many rows diverge, and what to do about it: a repair, where one helps. Empty when none do.

    :param repaired: a repair has just been made.
    """
    collisions = [each for each in divergences if each.owners]
    told = []
    if mendable := len(divergences) - len(collisions):
        rows = "1 row diverges" if mendable == 1 else f"{mendable:,} rows diverge"
        remedy = (
            "again, after the repair: find out what writes there" if repaired else "see `replicator verify --repair`"
        )
        told.append(f"{rows} {remedy}" if repaired else f"{rows}; {remedy}")
    if collisions:
        rows = "1 row is" if len(collisions) == 1 else f"{len(collisions):,} rows are"
        first = collisions[0]
        told.append(
            f"{rows} produced by more than one source row, which no repair can mend: {first.target} {list(first.key)}, "
            f"{first.note}. Change or delete all but one of these, or have the transform leave them out"
        )
    return "; ".join(told)


def sentence(text: str) -> str:
    """A gate's text as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def _shut(text: str) -> Standing:
    return Standing(ok=False, text=text)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
