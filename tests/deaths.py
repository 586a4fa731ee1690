"""The end of a daemon that runs inside the test, as a SIGKILL would bring it."""

import contextlib
from collections.abc import Iterator

from replicator.runtime.failpoints import Failpoint, handled


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of ours handles it."""


@contextlib.contextmanager
def killed_at(point: Failpoint, passing: int = 1) -> Iterator[None]:
    """Raise KilledError at a failpoint; whoever is dead takes nothing back, either.

    :param passing: at which passing, counted from one.
    """
    passed = 0

    async def die() -> None:
        nonlocal passed
        passed += 1
        if passed == passing:
            raise KilledError

    async def stay_dead() -> None:
        if passed >= passing:
            raise KilledError

    with handled(Failpoint.TAKING_BACK, stay_dead), handled(point, die):
        yield
