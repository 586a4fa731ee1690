"""Who owns the data, where two databases may know it; and what lets the one that does not know catch up."""

from collections.abc import Mapping, Sequence

from replicator.migration import Direction
from replicator.postgres.connect import Connection, connection
from replicator.postgres.control import Owner
from replicator.postgres.guards import open_to_writers
from replicator.postgres.ownership import (
    Ownership,
    lock_writers,
    read_ownership,
    settled_ownership,
    write_ownership,
)
from replicator.postgres.progress import read_progress
from replicator.settings import Settings
from replicator.tables import Name


async def see_that_they_open(behind: Connection, tables: Sequence[Name], seconds: float) -> None:
    """Whether nobody keeps ``activate`` from opening them, before the commit: after it the writers of both would wait.

    Raises RetryableError when somebody does.
    """
    async with behind.transaction(force_rollback=True):
        await lock_writers(behind, tables, seconds)


async def activate(settings: Settings, tables: Mapping[Owner, list[Name]], ownership: Ownership) -> None:
    """Let the database that does not know of the last move open its tables to writers; may run again."""
    sides: tuple[tuple[Owner, str], ...] = (("old", settings.source), ("new", settings.target))
    for side, dsn in sides:
        async with connection(dsn, "activate") as behind:
            if (await read_ownership(behind)).epoch >= ownership.epoch:
                continue
            async with behind.transaction():
                await open_to_writers(behind, tables[side])
                await write_ownership(
                    behind, ownership.owner, ownership.epoch, await _marker(settings, side), rolling=ownership.rolling
                )


async def _marker(settings: Settings, side: Owner) -> str | None:
    """The message that the pipeline waits for which reads this side; its target has stored it."""
    direction: Direction = "forward" if side == "old" else "reverse"
    async with connection(settings.target if side == "old" else settings.source, "activate") as target:
        progress = await read_progress(target, direction)
        return progress.start_marker if progress is not None else None


async def owner_now(settings: Settings) -> Ownership:
    """Who owns the data: the database whose state row has moved last knows. Waits for a move that is under way."""
    async with connection(settings.source, "state") as old, connection(settings.target, "state") as new:
        return latest(await settled_ownership(old), await settled_ownership(new))


def latest(*rows: Ownership) -> Ownership:
    """The state row that counts: the one that has moved last."""
    return max(rows, key=lambda each: each.epoch)
