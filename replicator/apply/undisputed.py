"""Who decides for the effects of a batch what of them has lost: nothing has, where one schema alone takes writes."""

from collections.abc import Set as AbstractSet

from replicator.apply.dates import Dates
from replicator.apply.effects import Effects
from replicator.core.tables import Key


class Undisputed:
    """Decides nothing: only the source's schema takes writes."""

    dates: Dates | None = None
    """When the changes were made, where that decides."""

    async def look(self, effects: Effects) -> None:
        """Before the write: take out of the effects what has lost."""

    async def overtaken(self, effects: Effects) -> bool:  # noqa: ARG002
        """After the write: whether it must be undone, looked at and written again."""
        return False

    async def store(self, effects: Effects, overwritten: AbstractSet[tuple[str, Key]]) -> int:  # noqa: ARG002
        """Note what follows from it; returns how many changes have lost."""
        return 0
