"""Who owns the data, where two databases may know it; and what lets the one that does not know catch up."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from replicator.core.tables import Name
from replicator.errors import ReplicatorError
from replicator.migration import Direction
from replicator.postgres.control.control import Owner, unreplicated
from replicator.postgres.control.ownership import (
    Ownership,
    notify_of_owner,
    read_ownership,
    settled_ownership,
    write_ownership,
)
from replicator.postgres.control.progress import read_progress
from replicator.postgres.guarding.guards import open_to_writers
from replicator.postgres.locking.locks import WRITERS, in_turns, lock_tables
from replicator.postgres.session.connect import Connection, connection
from replicator.runtime.log import get_logger
from replicator.settings import Settings

log = get_logger("ownership")

LOCK_SECONDS = 0.5
ANNOUNCE_SECONDS = 5.0
FOR_EVER = sys.maxsize


async def see_that_they_open(behind: Connection, tables: Sequence[Name], seconds: float, observer: Connection) -> None:
    """Whether nobody keeps ``activate`` from opening them, before the commit: after it the writers of both would wait.

    Raises LockedOutError when somebody does.
    """
    async with behind.transaction(force_rollback=True):
        await lock_tables(behind, tables, WRITERS, seconds, observer)


async def activate(settings: Settings, tables: Mapping[Owner, list[Name]], ownership: Ownership) -> None:
    """Let the database that does not know of the last move open its tables to writers; may run again.

    The move is committed, so it is tried until it succeeds: in short turns, for whoever writes queues behind each.
    """
    sides: tuple[tuple[Owner, str], ...] = (("old", settings.source), ("new", settings.target))
    for side, dsn in sides:
        async with connection(dsn, "activate") as behind, connection(dsn, "activate watch") as observer:
            if (await read_ownership(behind)).epoch < ownership.epoch:
                work = partial(_open, behind, tables[side], ownership, await _marker(settings, side), observer)
                await in_turns(work, observer, tables[side], tries=FOR_EVER, tell=_tell)


async def announce(settings: Settings) -> None:
    """Notify whoever listens in either database of who owns the data now: a hint, for they can ask.

    After the commit, and not in it: anybody can fill the queue of notifications, and a commit that is stuck keeps all
    others that notify waiting; either would be in the way of the move.
    """
    await asyncio.gather(*(_announce(dsn) for dsn in dict.fromkeys((settings.source, settings.target))))


async def _announce(dsn: str) -> None:
    try:
        async with asyncio.timeout(ANNOUNCE_SECONDS), connection(dsn, "announce") as announcing:
            await unreplicated(announcing)
            await notify_of_owner(announcing)
    except (ReplicatorError, TimeoutError) as error:
        log.warning("who listens for the cutover was not notified", why=str(error) or "it took too long")


async def _tell(problem: str) -> None:
    log.warning("the tables cannot be opened to writers yet; trying again", why=problem)


async def _open(
    behind: Connection, tables: Sequence[Name], ownership: Ownership, marker: str | None, observer: Connection
) -> None:
    async with behind.transaction():
        await lock_tables(behind, tables, WRITERS, LOCK_SECONDS, observer)
        await open_to_writers(behind, tables)
        await write_ownership(behind, ownership.owner, ownership.epoch, marker, rolling=ownership.rolling)


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
