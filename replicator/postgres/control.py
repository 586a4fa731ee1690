"""The engine's own tables: phase, status, commands, journal. The daemon writes them; the commands talk through them."""

import getpass
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any, Literal

from psycopg.rows import dict_row

from replicator.errors import MigrationError, RetryableError
from replicator.migration import Migration
from replicator.postgres.connect import Connection, translated
from replicator.postgres.ours import foreign_schema, schema_is_ours
from replicator.postgres.trust import refuse_strangers
from replicator.postgres.upgrading import bring_along

Owner = Literal["old", "new"]

COMMAND_CHANNEL = "replicator_command"
CUTOVER_CHANNEL = "replicator_cutover"
TRIES = 5
FINALIZED = "finalized"
"""The phase after which another migration may begin in the same database."""


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


STALE_SECONDS = 10.0
"""From that age on, a report says nothing of what holds now. There is one a second."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """The daemon's last report."""

    document: dict[str, Any]
    age_seconds: float

    @property
    def fresh(self) -> bool:
        """Whether it can be of now."""
        return self.age_seconds <= STALE_SECONDS


async def install(connection: Connection, migration: Migration) -> None:
    """Create the control tables where they are missing, and take back what was granted on them.

    :raises MigrationError: they belong to another migration.
    :raises CheckError: the schema, or something in it, is another role's or an older version's, or it is there for
        something else.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            await _make_schema(connection)
            break
        except RetryableError:
            if not tries_left:
                raise
    with translated():
        async with connection.transaction():
            await upgrade(connection)
            await connection.execute(
                "INSERT INTO replicator.ownership (migration, old_schema, new_schema) VALUES (%s, %s, %s) "
                "ON CONFLICT DO NOTHING",
                (migration.name, migration.old, migration.new),
            )
            cursor = await connection.execute("SELECT migration FROM replicator.ownership")
            (name,) = await cursor.fetchone() or (None,)
            if name != migration.name and await read_phase(connection) == FINALIZED:
                await _begin_another(connection, migration)
                name = migration.name
    if name != migration.name:
        raise _in_the_middle(name)


async def upgrade(connection: Connection) -> None:
    """Make the control tables what this version needs: an earlier one may have made them. The schema is there.

    Raises CheckError as ``install`` does.
    """
    with translated():
        async with connection.transaction():
            if foreign := await foreign_schema(connection):
                raise foreign
            await refuse_strangers(connection, to_change=True)  # since we have connected, somebody may have been faster
            await bring_along(connection)
            await connection.execute(files("replicator.postgres").joinpath("control.sql").read_bytes())


async def _make_schema(connection: Connection) -> None:
    """Two that make it at the same time are no error: the second finds it there."""
    with translated():
        await connection.execute("CREATE SCHEMA IF NOT EXISTS replicator")


async def _begin_another(connection: Connection, migration: Migration) -> None:
    """The last migration in this database is over: what is left of it is its journal."""
    await connection.execute(
        "UPDATE replicator.ownership SET migration = %s, old_schema = %s, new_schema = %s, owner = 'old', epoch = 0, "
        "rolling_since = NULL, settling_since = NULL, search_path_role = NULL, search_path_before = NULL, "
        "since = clock_timestamp()",
        (migration.name, migration.old, migration.new),
    )
    for table in ("state", "status", "created", "kept", "renames", "noted"):
        await connection.execute(f"DELETE FROM replicator.{table}".encode())


async def unreplicated(connection: Connection) -> None:
    """Let the session's commits not wait for a synchronous standby: for what only concerns the daemon of now.

    Reports, requests and answers must come through just when no standby answers, to say so.
    """
    with translated():
        await connection.execute("SELECT set_config('synchronous_commit', 'local', false)")


async def installed(connection: Connection) -> bool:
    """Whether the control tables are there."""
    return await schema_is_ours(connection)


async def refuse_another(connection: Connection, migration: Migration) -> None:
    """Raise MigrationError when the control tables are there, and belong to another migration."""
    if await installed(connection) and not await installed_for(connection, migration):
        raise _in_the_middle(await migration_there(connection))


def _in_the_middle(name: str | None) -> MigrationError:
    return MigrationError(
        f"This database is in the middle of the migration {name}.", "Finish that one before you start another."
    )


async def migration_there(connection: Connection) -> str | None:
    """The migration that the control tables are of."""
    with translated():
        cursor = await connection.execute("SELECT migration FROM replicator.ownership")
        row = await cursor.fetchone()
        return row[0] if row else None


async def installed_for(connection: Connection, migration: Migration) -> bool:
    """Whether they are there, and belong to this migration."""
    return await installed(connection) and await migration_there(connection) == migration.name


async def read_phase(connection: Connection) -> str | None:
    """The stored phase; None before the first start."""
    with translated():
        cursor = await connection.execute("SELECT phase FROM replicator.state")
        row = await cursor.fetchone()
        return row[0] if row else None


async def write_phase(connection: Connection, phase: str) -> None:
    """Store the phase, and enter the change into the journal, in one transaction."""
    with translated():
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO replicator.state (phase) VALUES (%s) ON CONFLICT (only_row) "
                "DO UPDATE SET phase = EXCLUDED.phase, since = clock_timestamp()",
                (phase,),
            )
            await journal(connection, "phase", {"phase": phase})


async def read_ownership(connection: Connection) -> tuple[Owner, int]:
    """Who owns the data, and how often ownership has moved."""
    with translated():
        cursor = await connection.execute("SELECT owner, epoch FROM replicator.ownership")
        row = await cursor.fetchone()
        return (row[0], row[1]) if row else ("old", 0)


async def journal(connection: Connection, event: str, details: Mapping[str, Any]) -> None:
    """Enter an event into the journal, in the caller's transaction.

    :param details: names and counts, no row values; ``by`` says who asked for it, where that is known.
    """
    with translated():
        await connection.execute(
            "INSERT INTO replicator.journal (event, details) VALUES (%s, %s)", (event, json.dumps(details))
        )


async def last_pause(connection: Connection) -> float | None:
    """For how many seconds writers waited in the last cutover or rollback; None before the first."""
    with translated():
        cursor = await connection.execute(
            "SELECT (details->>'pause')::float8 FROM replicator.journal "
            "WHERE event IN ('cutover', 'rollback') ORDER BY id DESC LIMIT 1"
        )
        row = await cursor.fetchone()
        return row[0] if row else None


# ---- the daemon's report


async def write_status(connection: Connection, document: Mapping[str, Any]) -> None:
    """Store the daemon's report for the commands to read."""
    with translated():
        await connection.execute(
            "INSERT INTO replicator.status (document) VALUES (%s) ON CONFLICT (only_row) "
            "DO UPDATE SET document = EXCLUDED.document, updated_at = clock_timestamp()",
            (json.dumps(document),),
        )


async def read_status(connection: Connection) -> Status | None:
    """The daemon's last report; None when there has been none."""
    with translated():
        cursor = await connection.execute(
            "SELECT document, extract(epoch FROM clock_timestamp() - updated_at)::float8 FROM replicator.status"
        )
        row = await cursor.fetchone()
        return Status(document=row[0], age_seconds=row[1]) if row else None


async def daemon_alive(connection: Connection) -> bool:
    """Whether the session that has the daemon's lease in this database is there."""
    with translated():
        if not await installed(connection):
            return False
        cursor = await connection.execute(
            # An earlier version's table has not these columns; through jsonb they are null then.
            "SELECT EXISTS (SELECT FROM replicator.lease l, jsonb_to_record(to_jsonb(l)) AS s(pid integer, "
            "backend_start timestamptz) JOIN pg_stat_activity a ON a.pid = s.pid "
            "WHERE a.backend_start = s.backend_start OR a.backend_start IS NULL)"
        )
        row = await cursor.fetchone()
        return bool(row and row[0])


# ---- requests to the daemon


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
            "WITH asked AS ("
            "INSERT INTO replicator.commands (command, arguments, asker) VALUES (%s, %s, %s) RETURNING id) "
            "SELECT id, pg_notify(%s, id::text) FROM asked",
            (command, json.dumps(arguments), operator(), COMMAND_CHANNEL),
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
            "UPDATE replicator.commands SET started_at = clock_timestamp() WHERE id = %s", (command_id,)
        )


async def report_progress(connection: Connection, command_id: int, progress: Mapping[str, Any]) -> None:
    """Tell the asker how far it is."""
    with translated():
        await connection.execute(
            "UPDATE replicator.commands SET progress = %s WHERE id = %s", (json.dumps(progress), command_id)
        )


async def finish_command(connection: Connection, command_id: int, exit_code: int, result: Mapping[str, Any]) -> None:
    """Answer a request, and enter it into the journal, in one statement."""
    outcome = {name: value for name, value in result.items() if isinstance(value, str | int | float)}
    with translated():
        await connection.execute(
            "WITH done AS ("
            "UPDATE replicator.commands SET finished_at = clock_timestamp(), exit_code = %s, result = %s WHERE id = %s "
            "RETURNING *) "
            "INSERT INTO replicator.journal (who, event, details) SELECT requested_by, 'command', jsonb_strip_nulls("
            "jsonb_build_object('command', command, 'arguments', arguments, 'by', asker, 'exit_code', exit_code, "
            "'seconds', round(extract(epoch FROM finished_at - coalesce(started_at, requested_at)), 3), "
            "'result', %s::jsonb)) FROM done",
            (exit_code, json.dumps(result), command_id, json.dumps(outcome)),
        )


async def _commands(connection: Connection, where: str, parameters: tuple[Any, ...]) -> list[Command]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT id, command, arguments, started_at, progress, finished_at, exit_code, result "
            "FROM replicator.commands " + where,
            parameters,
        )
        return [Command(**row) for row in await cursor.fetchall()]
