"""What is closed stays closed: partitions made since, guards that somebody switches, triggers that appear."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from replicator.errors import NotReadyError, RetryableError
from replicator.migration import Migration
from replicator.pipeline.setup import all_tables
from replicator.postgres.catalog.catalog_version import Generations
from replicator.postgres.control.control import Owner
from replicator.postgres.control.ownership import limit_lock
from replicator.postgres.guarding.guarded import not_noted
from replicator.postgres.guarding.guards import any_closed, guard, guard_rest, not_closed
from replicator.postgres.guarding.strays import let_go
from replicator.postgres.rows.versions import note_partitions
from replicator.postgres.session.connect import Connection, connection
from replicator.runtime.log import get_logger
from replicator.settings import Settings
from replicator.switchover.handover import owner_now

log = get_logger("closing")

LOCK_SECONDS = 0.5
"""How long a look may queue for a lock: writers queue behind it. The next look comes soon."""
FIRST_LOCK_SECONDS = 30.0


async def keep_closed(settings: Settings, seconds: float, look: Callable[[], Awaitable[bool]]) -> None:
    """Look every few seconds, if anything has changed in either catalogue. Never returns.

    :param look: gives whether all has been looked at and closed; else it looks again.
    """
    generations = Generations()
    async with AsyncExitStack() as stack:
        dsns = dict.fromkeys((settings.source, settings.target))
        watched = [await stack.enter_async_context(connection(dsn, "changes")) for dsn in dsns]
        while True:
            await asyncio.sleep(seconds)
            reading = await generations.changed(watched)
            if reading is not None and await look():
                generations.settle(reading)


async def close_again(settings: Settings, noted: Callable[[], None]) -> bool:
    """Look in both databases, and close what was not closed; gives whether nothing has kept it from that.

    :param noted: is called when others may have written, before it is closed again.
    """
    found, done = [], True
    for dsn in dict.fromkeys((settings.source, settings.target)):
        async with connection(dsn, "guards") as opened:
            try:
                found += await guard_rest(opened, LOCK_SECONDS, noted)
                for table in await let_go(opened, LOCK_SECONDS):
                    log.info("what has left a table is open to the application again", table=str(table))
                await note_partitions(opened, LOCK_SECONDS)
            except RetryableError as error:
                log.warning("what is not closed could not be closed: tried again soon", error=error.problem)
                done = False
    for each in found:
        log.warning("only the daemon writes to these tables: what it found there is switched off again", found=each)
    return done


async def see_that_all_is_closed(connection: Connection) -> None:
    """Raise NotReadyError when others could write where only the daemon may, or their triggers act on its writes."""
    if found := await not_closed(connection):
        raise NotReadyError(
            f"Not closed to others was: {', '.join(found)}. The writers went on.",
            "It is closed again, and all rows are compared again; then try again. Find out who has switched it.",
        )


async def close_as_before(settings: Settings, migration: Migration) -> None:
    """Close what is to be closed and is not noted so: a table that was made anew, or all, after an upgrade.

    An earlier version's guards would not let this one pass.
    """
    now = await owner_now(settings)
    if now.rolling:
        return
    side: Owner = "new" if now.owner == "old" else "old"
    async with connection(settings.target if side == "new" else settings.source, "guards") as opened:
        tables = (await all_tables(settings, migration))[side]
        if await any_closed(opened):
            written = {each.into for each in migration.of("forward")}
            written_to = [each for each in tables if side == "old" or each.table in written]
            tables = await not_noted(opened, written_to)
        if not tables:
            return
        async with opened.transaction():
            await limit_lock(opened, FIRST_LOCK_SECONDS)
            await guard(opened, migration, side, tables, migration.old if now.renamed else None)
