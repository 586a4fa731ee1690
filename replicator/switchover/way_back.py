"""Whether the way back is open: what ``status``, ``smoke`` and ``rollback`` all say of it, from one place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from replicator.migration import NO_WAY_BACK
from replicator.switchover.phases import Phase

Open = Literal["open", "waits", "shut", "not yet", "none", "over"]

WILL_OPEN: Final = frozenset({"lag", "verified"})
"""Gates that are shut for a while after each start, and open by themselves, as long as no row differs."""
AFTER: Final = frozenset({Phase.SOAK, Phase.ROLLBACK, Phase.ROLLING})
"""The phases in which there is something to go back from."""


@dataclass(frozen=True, kw_only=True)
class WayBack:
    """Whether a rollback would be done now, and why not.

    ``waits``: not at once, but the gates that are shut open by themselves. ``shut``: somebody has to do something.
    ``not yet``: the old schema owns the data. ``none``: the migration has no way back. ``over``: it has been finalized.
    """

    state: Open
    problem: str = ""
    remedy: str = ""

    @property
    def possible(self) -> bool:
        """There is a way back, be its gates open or shut."""
        return self.state in ("open", "waits", "shut")


def way_back(phase: str, *, declared: bool, gates: Sequence[Mapping[str, object]], differing: int) -> WayBack:
    """What a rollback asked for now would meet.

    :param phase: as it is stored.
    :param declared: the migration has reverse transforms (``Migration.way_back``).
    :param gates: as in the status document; of the pipeline that is active.
    :param differing: how many rows are known to differ.
    """
    if phase == Phase.FINALIZED:
        return WayBack(
            state="over",
            problem="The migration is over: nothing follows any more, and there is no rollback.",
            remedy="Going back is by backup only.",
        )
    if not declared:
        return WayBack(
            state="none",
            problem=f"{NO_WAY_BACK}.",
            remedy="Mend what is wrong in the new schema; the old tables are as they were at the cutover."
            if phase in AFTER
            else "A mistake that shows after the cutover is mended in the new schema.",
        )
    if phase not in AFTER:
        return WayBack(
            state="not yet",
            problem="The old schema owns the data.",
            remedy="There is nothing to roll back.",
        )
    shut = {str(each["name"]): str(each["detail"]) for each in gates if not each["ok"]}
    if gates and not shut:
        return WayBack(state="open")
    said = "; ".join(f"{name}: {detail}" for name, detail in shut.items()) or "the daemon has not looked yet"
    if shut.keys() <= WILL_OPEN and not differing:
        return WayBack(
            state="waits",
            problem=f"A rollback would have to wait for {said}.",
            remedy="These open by themselves: see `replicator status`.",
        )
    return WayBack(state="shut", problem=f"A rollback would be refused. {said}.", remedy="Do what the gate says.")
