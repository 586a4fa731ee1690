"""After a move, the foreign keys that it has made are looked at row by row: in it, the writers would have waited."""

import asyncio

from replicator.errors import RetryableError
from replicator.postgres.control.control import journal
from replicator.postgres.rows.validation import unvalidated, validate
from replicator.postgres.session.connect import connection
from replicator.runtime.log import get_logger
from replicator.settings import Settings

log = get_logger("foreign keys")

AGAIN_SECONDS = 10.0


async def validate_edges(settings: Settings) -> None:
    """Until each has been looked at. One that rows do not keep stays as it is, NOT VALID, and the journal says so."""
    broken: set[str] = set()
    while True:
        waiting = False
        for dsn in dict.fromkeys((settings.source, settings.target)):
            async with connection(dsn, "foreign keys") as opened:
                for table, name in await unvalidated(opened):
                    key = f"{name} of {table}"
                    if key in broken:
                        continue
                    try:
                        kept = await validate(opened, table, name)
                    except RetryableError:
                        waiting = True
                        continue
                    if kept:
                        log.info("a foreign key is valid", key=key)
                        continue
                    broken.add(key)
                    log.warning("rows do not keep a foreign key: it holds for what is written from now on", key=key)
                    async with connection(settings.target, "journal") as target:
                        await journal(target, "foreign key not valid", {"key": key})
        if not waiting:
            return
        await asyncio.sleep(AGAIN_SECONDS)
