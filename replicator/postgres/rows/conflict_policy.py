"""What a pipeline does about rows of its target that the application may write too: nothing, or the last write wins."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime

from replicator.postgres.rows.versions import Version
from replicator.postgres.wire.origins import OwnOrigin


class ConflictPolicy:
    """Only the source's schema takes writes, so nothing can be in conflict; the other policy says what differs."""

    both_write = False
    """Both schemas take writes: changes are dated, and may lose."""

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """What a pipeline holds from the reading to the commit."""
        yield

    def written_by_the_application(self, version: Version) -> datetime | None:  # noqa: ARG002
        """When the application wrote a row of the target last, if that may be in conflict with a change."""
        return None


@dataclass(kw_only=True, eq=False)
class LastWriteWins(ConflictPolicy):
    """While both schemas take writes (``cutover --rolling``): who wrote a row last wins, by commit time."""

    both_write = True

    origin: OwnOrigin
    """What the pipeline writes under, on its target."""
    since: datetime
    """When the application began to write on both sides, by the target's clock: older rows are no conflict."""
    turns: asyncio.Lock
    """Of both pipelines: what one reads, the other must not be about to overwrite."""
    known_through: Callable[[], datetime]
    """What the application wrote on the target up to then, by the target's clock, the opposite pipeline has applied."""

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Alone on both sides."""
        async with self.turns:
            yield

    def written_by_the_application(self, version: Version) -> datetime | None:
        """When, if not by us, and not before both sides took writes."""
        if version.origin == self.origin.number or version.at is None or version.at <= self.since:
            return None
        return version.at
