"""Two counters that fence off whoever comes too late. They count different things: neither stands for the other."""

from typing import NewType

LeaseEpoch = NewType("LeaseEpoch", int)
"""How many daemons have held the lease of a database: a write under an earlier one is refused (I6)."""

OwnershipEpoch = NewType("OwnershipEpoch", int)
"""How many times ownership of the data has moved: the newer of two state rows counts (I8)."""

NEVER_MOVED = OwnershipEpoch(0)


def after(epoch: OwnershipEpoch) -> OwnershipEpoch:
    """That of the next move."""
    return OwnershipEpoch(epoch + 1)
