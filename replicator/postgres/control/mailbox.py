"""Requests to the daemon, and its answers: a table that both sides write to."""

import getpass
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from replicator.errors import MigrationError
from replicator.postgres.session.connect import Connection, translated

CUTOVER_CHANNEL = "replicator_cutover"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A request to the daemon, and what became of it."""

    id: int
    command: str
    arguments: Mapping[str, Any]
    started_at: datetime | None
    progress: Any
    finished_at: datetime | None
    exit_code: int | None
    result: Any


def operator() -> str:
    """Who runs this process, as ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in a container
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


async def request(connection: Connection, command: str, arguments: Mapping[str, Any]) -> int:
    """Ask the daemon for something; gives the request's id."""
    with translated():
        cursor = await connection.execute(
            "INSERT INTO _replicator.commands (command, arguments, asker) VALUES (%s, %s, %s) RETURNING id",
            (command, json.dumps(arguments), operator()),
        )
        row = await cursor.fetchone()
        if row is None:
            raise MigrationError("The request was not stored.")
        return int(row[0])


async def read_command(connection: Connection, command_id: int) -> Command:
    """A request and what has become of it."""
    with translated():
        found = await _commands(connection, "WHERE id = %s", (command_id,))
    return found[0]


async def pending_commands(connection: Connection) -> list[Command]:
    """Requests that nobody has finished, oldest first; one that a dead daemon had started is among them."""
    with translated():
        return await _commands(connection, "WHERE finished_at IS NULL ORDER BY id", ())


async def start_command(connection: Connection, command_id: int) -> None:
    """Mark a request as taken."""
    with translated():
        await connection.execute(
            "UPDATE _replicator.commands SET started_at = clock_timestamp() WHERE id = %s", (command_id,)
        )


async def report_progress(connection: Connection, command_id: int, progress: Mapping[str, Any]) -> None:
    """Tell the asker how far it is."""
    with translated():
        await connection.execute(
            "UPDATE _replicator.commands SET progress = %s WHERE id = %s", (json.dumps(progress), command_id)
        )


async def finish_command(connection: Connection, command_id: int, exit_code: int, result: Mapping[str, Any]) -> None:
    """Answer a request, and enter it into the journal, in one statement."""
    outcome = {name: value for name, value in result.items() if isinstance(value, str | int | float)}
    with translated():
        await connection.execute(
            "WITH done AS ("
            "UPDATE _replicator.commands SET finished_at = clock_timestamp(), exit_code = %s, result = %s "
            "WHERE id = %s RETURNING *) "
            "INSERT INTO _replicator.journal (who, event, details) SELECT requested_by, 'command', jsonb_strip_nulls("
            "jsonb_build_object('command', command, 'arguments', arguments, 'by', asker, 'exit_code', exit_code, "
            "'seconds', round(extract(epoch FROM finished_at - coalesce(started_at, requested_at)), 3), "
            "'result', %s::jsonb)) FROM done",
            (exit_code, json.dumps(result), command_id, json.dumps(outcome)),
        )


async def _commands(connection: Connection, where: str, parameters: tuple[Any, ...]) -> list[Command]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT id, command, arguments, started_at, progress, finished_at, exit_code, result "
            "FROM _replicator.commands " + where,
            parameters,
        )
        return [Command(**row) for row in await cursor.fetchall()]
