"""What the operator may do next, and what it would do: for the page, the terminal, and ``/status``."""

from collections.abc import Mapping, Sequence
from typing import Final, TypedDict


class NextStep(TypedDict):
    """A command that would be accepted now, and what it would do; without a command, what is waited for."""

    command: str
    does: str


WAITED_FOR: Final[Mapping[str, str]] = {
    "new": "The daemon creates the slot, the control tables and the new tables.",
    "backfill": "Rows are copied, and changes followed. Then indexes and constraints are built.",
    "build": "Indexes and constraints are built. Then every row is compared.",
    "cutover": "The cutover is under way.",
    "rollback": "The rollback is under way.",
}
"""In the phases in which nothing is to be done."""

CUTOVER: Final = (
    "Holds the writers of the old tables, applies what is left, and opens the new tables. Writers wait; none fails. "
    "From then on the old tables refuse writes"
)
KEPT: Final = ", and are kept in step with the new ones."
REHEARSE: Final = NextStep(
    command="replicator cutover --dry-run",
    does="Goes through every step of the cutover, then undoes it, and says how long writers waited.",
)
ROLLBACK: Final = NextStep(
    command="replicator rollback",
    does="Switches the application back to the old tables. What was written since the cutover is in them.",
)


def next_steps(phase: str, *, ready: bool, gates: Sequence[Mapping[str, object]], way_back: str) -> list[NextStep]:
    """What would be accepted now, the next one first.

    :param phase: as it is stored.
    :param ready: all gates of the cutover are open.
    :param gates: as in the status document.
    :param way_back: the state of the way back (``switchover.way_back.Open``).
    """
    shut = ", ".join(str(each["name"]) for each in gates if not each["ok"])
    if phase in WAITED_FOR:
        return [NextStep(command="", does=WAITED_FOR[phase])]
    if phase == "finalized":
        return [NextStep(command="replicator cleanup", does="Archives the old tables, and drops them.")]
    if phase == "follow":
        if not ready:
            return [NextStep(command="", does=f"The cutover waits for: {shut or 'the first look at the gates'}.")]
        if way_back == "none":
            does = f"{CUTOVER}. There is no rollback."
            return [NextStep(command="replicator cutover --no-way-back", does=does), REHEARSE]
        return [NextStep(command="replicator cutover", does=f"{CUTOVER}{KEPT}"), REHEARSE]
    back = [ROLLBACK] if way_back == "open" else []
    if phase == "rolling" and shut:
        return [NextStep(command="", does=f"The end of the rolling deploy waits for: {shut}."), *back]
    if phase == "rolling":
        return [
            NextStep(
                command="replicator cutover --complete",
                does="Closes the old tables for writers. First see that no old version of the application runs.",
            ),
            *back,
        ]
    return [
        NextStep(
            command="replicator finalize",
            does="Ends the soak, once its hours (REPLICATOR_SOAK) are over. The old tables are no longer kept in step, "
            "and from then on there is no rollback.",
        ),
        *back,
    ]
