"""Entries of the journal that the daemon's requests do not make: commands that run by themselves, starts and stops."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from replicator.errors import ExitCode, ReplicatorError
from replicator.postgres.control.control import installed, journal
from replicator.postgres.control.mailbox import operator
from replicator.postgres.session.connect import Connection, connection, translated


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What happened, when, and which role entered it."""

    id: int
    at: datetime
    who: str
    event: str
    details: dict[str, Any]


async def read_journal(connection: Connection, limit: int | None = None) -> list[Entry]:
    """The latest entries, oldest first; all of them without a limit. None before the migration has begun."""
    if not await installed(connection):
        return []
    with translated():
        async with connection.cursor(row_factory=class_row(Entry)) as cursor:
            await cursor.execute(
                "SELECT * FROM ("
                "SELECT id, at, who, event, details FROM _replicator.journal ORDER BY id DESC LIMIT %s) AS latest "
                "ORDER BY id",
                (limit,),
            )
            return await cursor.fetchall()


async def record(dsn: str, event: str, details: Mapping[str, Any]) -> bool:
    """Enter an event by a connection of its own; gives False where there is no journal yet."""
    async with connection(dsn, "journal") as opened:
        if not await installed(opened):
            return False
        await journal(opened, event, details)
        return True


@asynccontextmanager
async def recorded(dsn: str, command: str, arguments: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Enter a command that changes something without the daemon, however it ends.

    :param dsn: the target's.
    :return: a dict for what the block wants to have entered besides: names and counts.
    """
    result: dict[str, Any] = {}
    began = time.monotonic()

    def entry(exit_code: int) -> dict[str, Any]:
        return {
            "command": command,
            "arguments": dict(arguments),
            "by": operator(),
            "exit_code": int(exit_code),
            "seconds": round(time.monotonic() - began, 3),
            "result": result,
        }

    try:
        yield result
    except BaseException as error:
        result["error"] = _reason(error)
        with suppress(ReplicatorError):  # the command's own error is the one to tell
            await record(dsn, "command", entry(getattr(error, "exit_code", ExitCode.FAILED)))
        raise
    await record(dsn, "command", entry(ExitCode.DONE))


def _reason(error: BaseException) -> str:
    if isinstance(error, ReplicatorError):
        return error.problem
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
        return "It was interrupted."
    return f"It met an unexpected {type(error).__name__}."
