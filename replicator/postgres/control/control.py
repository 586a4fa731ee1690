"""The engine's own tables: phase, ownership, status, journal. The daemon writes them; the commands read them."""

import json
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.resources import files
from typing import Any, Literal

from psycopg import sql

from replicator.errors import MigrationError
from replicator.migration import Migration
from replicator.postgres.control.owned import foreign_schema, is_older, schema_is_ours
from replicator.postgres.control.upgrading import bring_along, refuse_underway
from replicator.postgres.locking.locks import patiently
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.session.connect import connection as connect_to
from replicator.postgres.session.trust import refuse_strangers

Owner = Literal["old", "new"]

FINALIZED = "finalized"
"""The phase after which another migration may begin in the same database."""


# When another role's session began is hidden from who may not read all statistics; the daemon's is of this role, or a
# superuser's. So no session of a role that happens to get a dead daemon's process number counts as the daemon.
IS_HOLDER = """
    a.pid = l.pid AND (a.backend_start = l.backend_start OR a.backend_start IS NULL
        AND a.application_name = 'replicator lease' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = a.usesysid))
"""
"""Whether the session ``a`` of pg_stat_activity is the one that the row ``l`` of the lease names."""

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
    :raises CheckError: a schema, or something in it, is another role's or an older version's, or it is there for
        something else.
    :raises LockedOutError: something of ours is locked; names by whom.
    """
    name = await patiently(connection, partial(_install_once, connection, migration))
    if name != migration.name:
        raise _in_the_middle(name)


async def _install_once(connection: Connection, migration: Migration) -> str | None:
    await _upgrade_once(connection)
    await connection.execute(
        "INSERT INTO _replicator.ownership (migration, old_schema, new_schema) VALUES (%s, %s, %s) "
        "ON CONFLICT DO NOTHING",
        (migration.name, migration.old, migration.new),
    )
    name = await migration_there(connection)
    if name != migration.name and await read_phase(connection) == FINALIZED:
        await _begin_another(connection, migration)
        return migration.name
    return name


async def upgrade(connection: Connection) -> None:
    """Make the control tables what this version needs: an earlier one may have made them. Raises as ``install``."""
    await patiently(connection, partial(_upgrade_once, connection))


async def upgrade_all(dsns: Iterable[str]) -> None:
    """Bring along what an older version has left in any of these databases, before anybody judges what is there.

    Nothing is changed in one as long as another has a migration under way that cannot be brought along. Raises as
    ``install``.
    """
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connect_to(dsn, "upgrade")) for dsn in dict.fromkeys(dsns)]
        for each in opened:
            with translated():
                await refuse_underway(each)
        for each in opened:
            if await is_older(each):
                await upgrade(each)


async def _upgrade_once(connection: Connection) -> None:
    """In the caller's transaction. What is as this version has made it is not touched: so nobody is waited for."""
    if foreign := await foreign_schema(connection):
        raise foreign
    await refuse_strangers(connection, to_change=True)  # since we have connected, somebody may have been faster
    await bring_along(connection)
    for name in ("_replicator", "replicator"):
        cursor = await connection.execute("SELECT to_regnamespace(%s) IS NULL", (name,))
        if await cursor.fetchone() == (True,):  # two that make it at the same time: the second tries again
            await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    made = files("replicator.postgres.control").joinpath("control.sql").read_bytes()
    digest = sha256(made).hexdigest()
    if await _made_by(connection) != digest:
        await connection.execute(made)
        await connection.execute(
            "INSERT INTO _replicator.version (made_by) VALUES (%s) "
            "ON CONFLICT (only_row) DO UPDATE SET made_by = EXCLUDED.made_by",
            (digest,),
        )
    await connection.execute(files("replicator.postgres.control").joinpath("grants.sql").read_bytes())


async def _made_by(connection: Connection) -> str | None:
    cursor = await connection.execute("SELECT to_regclass('_replicator.version') IS NOT NULL")
    if await cursor.fetchone() != (True,):
        return None
    cursor = await connection.execute("SELECT made_by FROM _replicator.version")
    row = await cursor.fetchone()
    return row[0] if row else None


async def _begin_another(connection: Connection, migration: Migration) -> None:
    """The last migration in this database is over: what is left of it is its journal."""
    await connection.execute(
        "UPDATE _replicator.ownership SET migration = %s, old_schema = %s, new_schema = %s, owner = 'old', epoch = 0, "
        "rolling_since = NULL, settling_since = NULL, search_path_role = NULL, search_path_before = NULL, "
        "since = clock_timestamp()",
        (migration.name, migration.old, migration.new),
    )
    for table in ("state", "status", "created", "kept", "renames", "noted", "edges"):
        await connection.execute(f"DELETE FROM _replicator.{table}".encode())


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
        cursor = await connection.execute("SELECT migration FROM _replicator.ownership")
        row = await cursor.fetchone()
        return row[0] if row else None


async def installed_for(connection: Connection, migration: Migration) -> bool:
    """Whether they are there, and belong to this migration."""
    return await installed(connection) and await migration_there(connection) == migration.name


async def read_phase(connection: Connection) -> str | None:
    """The stored phase; None before the first start."""
    with translated():
        cursor = await connection.execute("SELECT phase FROM _replicator.state")
        row = await cursor.fetchone()
        return row[0] if row else None


async def write_phase(connection: Connection, phase: str) -> None:
    """Store the phase, and enter the change into the journal, in one transaction."""
    with translated():
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO _replicator.state (phase) VALUES (%s) ON CONFLICT (only_row) "
                "DO UPDATE SET phase = EXCLUDED.phase, since = clock_timestamp()",
                (phase,),
            )
            await journal(connection, "phase", {"phase": phase})


async def journal(connection: Connection, event: str, details: Mapping[str, Any]) -> None:
    """Enter an event into the journal, in the caller's transaction.

    :param details: names and counts, no row values; ``by`` says who asked for it, where that is known.
    """
    with translated():
        await connection.execute(
            "INSERT INTO _replicator.journal (event, details) VALUES (%s, %s)", (event, json.dumps(details))
        )


async def last_pause(connection: Connection) -> float | None:
    """For how many seconds writers waited in the last cutover or rollback; None before the first."""
    with translated():
        cursor = await connection.execute(
            "SELECT (details->>'pause')::float8 FROM _replicator.journal "
            "WHERE event IN ('cutover', 'rollback') ORDER BY id DESC LIMIT 1"
        )
        row = await cursor.fetchone()
        return row[0] if row else None


# ---- the daemon's report


async def write_status(connection: Connection, document: Mapping[str, Any]) -> None:
    """Store the daemon's report for the commands to read."""
    with translated():
        await connection.execute(
            "INSERT INTO _replicator.status (document) VALUES (%s) ON CONFLICT (only_row) "
            "DO UPDATE SET document = EXCLUDED.document, updated_at = clock_timestamp()",
            (json.dumps(document),),
        )


async def read_status(connection: Connection) -> Status | None:
    """The daemon's last report; None when there has been none."""
    with translated():
        cursor = await connection.execute(
            "SELECT document, extract(epoch FROM clock_timestamp() - updated_at)::float8 FROM _replicator.status"
        )
        row = await cursor.fetchone()
        return Status(document=row[0], age_seconds=row[1]) if row else None


async def daemon_alive(connection: Connection) -> bool:
    """Whether the session that has the daemon's lease in this database is there."""
    with translated():
        if not await installed(connection):
            return False
        cursor = await connection.execute(
            f"SELECT EXISTS (SELECT FROM _replicator.lease l JOIN pg_stat_activity a ON {IS_HOLDER})".encode()
        )
        row = await cursor.fetchone()
        return bool(row and row[0])
