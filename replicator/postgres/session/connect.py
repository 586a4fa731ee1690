"""Connections with pinned settings, and the edge where psycopg's errors become ours."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.string import TextLoader

from replicator.errors import (
    CheckError,
    ConnectionLostError,
    DatabaseError,
    DefinitionError,
    LeaseError,
    LockRoomError,
    ReplicatorError,
    RetryableError,
    RowError,
)
from replicator.postgres.session.dsn import describe
from replicator.postgres.session.pins import STARTUP, pin
from replicator.postgres.session.trust import refuse_strangers
from replicator.postgres.session.wording import raised, said
from replicator.runtime.retrying import retry

Connection = AsyncConnection[Any]

LOST = ("08", "57P01", "57P02", "57P03", "57P05")
RETRYABLE = ("40001", "40P01", "55P03")
TAKEN_OVER = "RP001"
CONCURRENTLY = ("simple_heap_update", "simple_heap_delete")
"""The server's functions that report an entry of the catalogue that somebody else has changed meanwhile."""
GONE = ("42P01", "42704", "3F000")
"""A table, a trigger or another object, or a schema is not there."""
VIOLATED = {"23001": "foreign key", "23503": "foreign key", "23505": "unique", "23514": "check", "23P01": "exclusion"}
"""The kind of constraint, by SQLSTATE."""


async def connect(dsn: str, purpose: str, *, text: bool = False, may_be_read_only: bool = False) -> Connection:
    """Open a connection in autocommit mode, with the settings that ``pins`` lists.

    :param purpose: shows in pg_stat_activity as ``replicator <purpose>``.
    :param text: return every value as the text that Postgres prints, none parsed.
    :param may_be_read_only: accept a standby, or a role that may only read.
    :raises ConnectionLostError: the server does not answer, refuses, or is a standby.
    :raises CheckError: a setting does not hold, the session is read-only, or the schema replicator is another role's.
    """
    try:
        with translated():
            opened = await _opened(_conninfo(dsn, purpose), text=text)
            try:
                await pin(opened, may_be_read_only=may_be_read_only)
                await refuse_strangers(opened)
            except BaseException:
                await opened.close()
                raise
    except ConnectionLostError as error:
        error.where = describe(dsn)
        raise
    return opened


async def _opened(conninfo: str, *, text: bool) -> Connection:
    """Again, once, if the event loop knows the new socket's number as another one's.

    A connection that is closed while it is cancelled leaves its number with the loop: the next socket that gets it
    fails, and that takes the number away.
    """
    return await retry(
        lambda: AsyncConnection.connect(
            conninfo,
            autocommit=True,
            context=_TextContext() if text else None,
            # What reads the source must not fail with "cached plan must not change result type".
            prepare_threshold=None if text else 5,
        ),
        on=psycopg.OperationalError,
        when=lambda error: str(error) == "connection socket closed",
        tries=2,
    )


@asynccontextmanager
async def connection(
    dsn: str, purpose: str, *, text: bool = False, may_be_read_only: bool = False
) -> AsyncIterator[Connection]:
    """``connect`` as a context manager: closed at the end of the block."""
    opened = await connect(dsn, purpose, text=text, may_be_read_only=may_be_read_only)
    try:
        with translated():
            yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def another(opened: Connection, purpose: str) -> AsyncIterator[Connection]:
    """A connection to where this one leads, as the same role."""
    info = opened.info
    async with connection(make_conninfo(info.dsn, password=info.password), purpose) as second:
        yield second


def _conninfo(dsn: str, purpose: str) -> str:
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:  # its text quotes the string, the password with it
        raise CheckError("The connection string cannot be read.", "Write it as postgresql://user@host/db.") from None
    own = str(given.get("options") or "")
    return make_conninfo(
        dsn,
        application_name=f"replicator {purpose}",
        options=f"{own} {STARTUP}".strip(),
        client_encoding="UTF8",
        connect_timeout=given.get("connect_timeout") or 10,
        keepalives_idle=given.get("keepalives_idle") or 30,
    )


class _TextContext:
    """An adaptation context in which every type loads as str."""

    connection = None

    def __init__(self) -> None:
        self.adapters = AdaptersMap(psycopg.adapters)
        _load_text(self.adapters)


def _load_text(adapters: AdaptersMap) -> None:
    for info in psycopg.adapters.types:
        adapters.register_loader(info.oid, TextLoader)
        if info.array_oid:
            adapters.register_loader(info.array_oid, TextLoader)
    adapters.register_loader(0, TextLoader)


def give_text(of: Connection | AsyncCursor[Any]) -> None:
    """Let a connection, or one cursor of it, return every value as the text that Postgres prints, from now on."""
    _load_text(of.adapters)


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's errors into ours at the end of the block."""
    try:
        yield
    except psycopg.Error as error:
        ours = translate(error)
        # Postgres quotes the row in its detail: no traceback may show it.
        raise ours from (None if isinstance(ours, RowError) else error)


@contextmanager
def of_a_list() -> Iterator[None]:
    """``translated``, around a statement that names what has just been listed and is not locked yet.

    What has gone since is no reason to end: a look that lists again does without it. Raises RetryableError then.
    """
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate not in GONE:
            raise translate(error) from error
        problem = f"What was there a moment ago has gone: {said(error)}."
        raise RetryableError(problem, "Try again.", error.sqlstate) from error


def translate(error: psycopg.Error) -> ReplicatorError:
    """Our error for one of psycopg's. Its text holds names and codes, never a value of a row."""
    state = error.sqlstate or ""
    if not state and not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return DatabaseError(f"The driver says: {type(error).__name__}.")
    if not state or state.startswith(LOST):
        return ConnectionLostError(_unreachable(error), "Check that the server runs and that the DSN is right.")
    if state == TAKEN_OVER:
        return LeaseError("Another daemon has taken this migration over.", "Let only one run.")
    if _in_the_catalogue(error, state):
        return RetryableError("Another session was making the same thing at the same time.", sqlstate=state)
    if state.startswith(("22", "23")):
        return RowError(_row_problem(error), "Mend the row, the transform, or the constraint.", state)
    primary = said(error)
    if state in RETRYABLE:
        return RetryableError(f"Postgres says: {primary}.", sqlstate=state)
    if state.startswith("28") or state == "3D000":
        return CheckError(f"The server refused the connection: {primary}.", "Mend the DSN, or pg_hba.conf.")
    if state == "42501" and error.diag.source_function == "check_enable_rls":  # whatever the message's language
        return CheckError(
            f"Row level security would hide rows from the role in the DSN: {primary}.",
            "Let that role see every row: ALTER ROLE ... BYPASSRLS; or disable row security on the table.",
        )
    if state == "42501":
        remedy = "Grant it to the role in the DSN; see docs/operator/server.md, Roles."
        return CheckError(f"A privilege is missing: {primary}.", remedy)
    if state in ("42703", "42P01", "42P10", "42804"):
        return DefinitionError(
            f"A table is not what it was when the daemon started: {primary}.",
            "Run `replicator check`, then start the daemon again: it goes on where it stopped.",
        )
    return _lacking(error, state, primary)


def _lacking(error: psycopg.Error, state: str, primary: str) -> ReplicatorError:
    """What the server has too little of, if it is that."""
    if state == "53200" and (error.diag.source_file or "").endswith("lock.c"):  # whatever the message's language
        return LockRoomError(
            f"The server has no room for more locks: {primary}.",
            "Raise max_locks_per_transaction, and restart the server: each partition that a query reads is locked.",
            state,
        )
    if state == "53100":
        return DatabaseError(f"The server's disk is full: {primary}.", "Free space, then start again.", state)
    return DatabaseError(f"Postgres says: {primary} ({state}).", sqlstate=state)


def _in_the_catalogue(error: psycopg.Error, state: str) -> bool:
    """Whether two sessions have made or changed one object at the same time."""
    made = state == psycopg.errors.UniqueViolation.sqlstate and error.diag.schema_name == "pg_catalog"
    return made or (state == "XX000" and error.diag.source_function in CONCURRENTLY)


def _unreachable(error: psycopg.Error) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in lines if "failed:" in line), lines[0] if lines else type(error).__name__)
    return f"The connection failed: {telling.split('failed: ')[-1].rstrip('.')}."


def _row_problem(error: psycopg.Error) -> str:
    """In our own words: a message may quote the row, as a data exception's does, or one that a function raises."""
    state, diag = error.sqlstate or "", error.diag
    if raised(error):
        return f"Postgres refused a row: a function raised {type(error).__name__} ({state})."
    of = f'relation "{diag.table_name}"' if diag.table_name else f'type "{diag.datatype_name}"'
    if state == "23502" and diag.column_name:
        return (
            f'Postgres refused a row: null value in column "{diag.column_name}" of {of} violates not-null constraint.'
        )
    if state in VIOLATED and diag.constraint_name:
        kind = f'{VIOLATED[state]} constraint "{diag.constraint_name}" of {of}'
        return f"Postgres refused a row: it violates {kind} ({state})."
    # The context of a data exception says at least which column it was for.
    column = re.search(r"column (\S+?)(:|$)", diag.context or "", re.MULTILINE)
    where = f" for the column {column.group(1)}" if column else ""
    what = "row" if state.startswith("23") else "value"
    return f"Postgres refused a {what}{where}: {type(error).__name__} ({state})."


def identifier(*parts: str) -> sql.Identifier:
    """A quoted, dotted name."""
    return sql.Identifier(*parts)


def beside_parameters(part: sql.Composable) -> sql.SQL:
    """A name or query for a statement that is given parameters: psycopg takes each ``%`` in it for one of them."""
    return sql.SQL(part.as_string().replace("%", "%%"))


def comma(parts: list[sql.Composable] | list[sql.Identifier] | list[sql.Composed] | list[sql.SQL]) -> sql.Composed:
    """Join with commas."""
    return sql.SQL(", ").join(parts)
