"""Replication origins: what our own writes are told by, while both schemas take writes."""

from dataclasses import dataclass
from typing import LiteralString

from replicator.errors import CheckError, DatabaseError
from replicator.postgres.control.owned import forget, note, noted, taken
from replicator.postgres.session.connect import Connection, translated
from replicator.runtime.retrying import retry

IN_USE = "55006"
TRIES = 100
PAUSE = 0.1
"""Seconds. A killed daemon's session needs a moment until the server notices."""

FUNCTIONS = (
    "pg_replication_origin_create(text)",
    "pg_replication_origin_drop(text)",
    "pg_replication_origin_oid(text)",
    "pg_replication_origin_session_setup(text)",
    "pg_replication_origin_session_reset()",
)
"""What a role that is no superuser must be allowed to call."""


async def tracks_commits(connection: Connection) -> bool:
    """Whether the server remembers when a transaction committed, and under which origin."""
    with translated():
        cursor = await connection.execute("SELECT current_setting('track_commit_timestamp')")
        return await cursor.fetchone() == ("on",)


async def lacking(connection: Connection) -> tuple[list[str], str]:
    """The functions that the role may not call; and the role, quoted."""
    with translated():
        cursor = await connection.execute(
            "SELECT coalesce(array_agg(name) FILTER (WHERE NOT has_function_privilege(name, 'EXECUTE')), '{}'), "
            "quote_ident(current_user) FROM unnest(%s::text[]) AS f(name)",
            (list(FUNCTIONS),),
        )
        row = await cursor.fetchone()
        return (row[0], row[1]) if row else ([], "")


@dataclass(frozen=True, kw_only=True)
class OwnOrigin:
    """An origin of ours on one server."""

    name: str
    number: int

    @property
    def signs(self) -> frozenset[str]:
        """What a decoder may know it by."""
        return frozenset({self.name, str(self.number)})


def origin_of(slot: str) -> str:
    """The name of the origin that a pipeline writes under: as its slot's, it is the only one in the cluster."""
    return f"replicator_{slot}"


async def create_origin(connection: Connection, name: str) -> OwnOrigin:
    """Create an origin, if ours is not there. Raises CheckError when a privilege is missing, or it is another's."""
    with translated():
        async with connection.transaction():
            number = await _number(connection, name)
            if number is None:
                cursor = await connection.execute("SELECT pg_replication_origin_create(%s)::int8", (name,))
                row = await cursor.fetchone()
                number = int(row[0]) if row else 0
                await note(connection, "origin", name, number)
            elif (await noted(connection, "origin")).get(name) != number:
                raise taken(
                    "replication origin", name, "REPLICATOR_SLOT", f"`SELECT pg_replication_origin_drop('{name}');`"
                )
    return OwnOrigin(name=name, number=number)


async def _number(connection: Connection, name: str) -> int | None:
    cursor = await connection.execute("SELECT roident::int8 FROM pg_replication_origin WHERE roname = %s", (name,))
    row = await cursor.fetchone()
    return int(row[0]) if row else None


async def write_under(connection: Connection, name: str) -> None:
    """Let all that this session commits from now on carry the origin; only one session at a time can.

    :raises CheckError: when another session holds it, or the server has no room for one more.
    """
    try:
        await _once_free(connection, "SELECT pg_replication_origin_session_setup(%s)", name)
    except DatabaseError as error:
        if _is_in_use(error):
            raise CheckError(
                f"Another session writes under the replication origin {name}.", "Stop that one first."
            ) from error
        raise CheckError(
            f"The replication origin {name} cannot be used: {error.problem}",
            "Raise max_replication_slots (from Postgres 18 on max_active_replication_origins).",
        ) from error


async def write_plainly(connection: Connection) -> None:
    """End ``write_under``."""
    with translated():
        await connection.execute("SELECT pg_replication_origin_session_reset()")


async def drop_origin(connection: Connection, name: str) -> None:
    """Drop an origin of ours if it is there; waits for the session that holds it. One that stays does no harm."""
    ours = await noted(connection, "origin")
    with translated():
        number = await _number(connection, name)
    if number is None or ours.get(name) != number:
        return
    try:
        await _once_free(connection, "SELECT pg_replication_origin_drop(%s)", name)
    except DatabaseError as error:
        if not _is_in_use(error):
            raise
    else:
        await forget(connection, "origin", name)


async def _once_free(connection: Connection, statement: LiteralString, name: str) -> None:
    """Execute what one session at a time can do with an origin. Raises DatabaseError, also when it stays in use."""

    async def execute() -> None:
        with translated():
            await connection.execute(statement, (name,))

    await retry(execute, on=DatabaseError, when=_is_in_use, tries=TRIES, pause=PAUSE)


def _is_in_use(error: DatabaseError) -> bool:
    return error.sqlstate == IN_USE
