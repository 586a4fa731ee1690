"""Walsender connections: how they are opened, what they are told, and what their complaints mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic

from replicator.errors import CheckError, ConnectionLostError, DefinitionError, ReplicatorError, SlotError
from replicator.lsn import LSN, format_lsn, parse_lsn
from replicator.postgres.connect import Connection, connect, translate, translated
from replicator.postgres.slots import AGAIN


@dataclass(frozen=True, kw_only=True)
class SystemIdentity:
    """Which cluster the source is, and how far its log is flushed."""

    system_id: str
    timeline: int
    flushed: LSN


async def identify_system(dsn: str) -> SystemIdentity:
    """Ask a server who it is. Raises ConnectionLostError."""
    connection = await open_walsender(dsn)
    try:
        with translated():
            cursor = await connection.execute("IDENTIFY_SYSTEM")
            row = await cursor.fetchone()
    finally:
        await connection.close()
    if row is None:
        raise CheckError("The server does not say which cluster it is.", "Connect to Postgres itself, not to a pooler.")
    return SystemIdentity(system_id=row[0], timeline=int(row[1]), flushed=parse_lsn(row[2]))


async def open_walsender(dsn: str) -> Connection:
    """Connect for replication, with the same pinned settings as everywhere. Raises ConnectionLostError."""
    connection = await connect(_replication_dsn(dsn), "stream")
    connection.prepare_threshold = None  # a walsender takes simple queries only
    return connection


def _replication_dsn(dsn: str) -> str:
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return dsn  # `connect` says what is wrong with it
    own: dict[str, Any] = {"keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000} | given
    return make_conninfo("", **own | {"replication": "database"})


def start_command(slot: str, start: LSN, options: Sequence[tuple[str, str]]) -> bytes:
    """START_REPLICATION for a slot, with its plugin's options."""
    listed = ", ".join(f"{_quoted(name)} {_quoted(value, quote=_VALUE)}" for name, value in options)
    return f"START_REPLICATION SLOT {_quoted(slot)} LOGICAL {format_lsn(start)} ({listed})".encode()


_NAME, _VALUE = '"', "'"


def _quoted(text: str, quote: str = _NAME) -> str:
    """The replication grammar's own quoting: it knows no backslashes, and psycopg's literals would have them."""
    return quote + text.replace(quote, quote + quote) + quote


# ---- what the server complains of


def is_fatal(notice: Diagnostic) -> bool:
    """Whether a notice says that changes are left out of the stream.

    wal2json does so for a table without replica identity; its text is never translated. From 18 on, pgoutput does so
    when a publication is missing (where it failed before), with a code of its own.
    """
    text = notice.message_primary or ""
    return text.startswith(("no tuple ", "no old tuple ")) or notice.sqlstate == "55000"


def left_out(notice: str) -> DefinitionError:
    """Our error for such a notice."""
    return DefinitionError(
        f"The server left changes out of the stream: {notice}.",
        "Give the table a primary key or another replica identity, or the publication back; "
        "the changes are lost to the stream, so copy the tables again.",
    )


def refusal(error: psycopg.Error, slot: str) -> ReplicatorError:
    """Our error for a START_REPLICATION that failed."""
    problem = _text(error)
    match error.sqlstate:
        case "55006":
            return ConnectionLostError(
                f"The slot {slot} is in use: {problem}.",
                "After a crash it frees itself when the server notices, at the latest after wal_sender_timeout; "
                "otherwise another daemon reads it: stop that one.",
            )
        case "42704" | "55000":
            return SlotError(f"The slot {slot} cannot go on: {problem}.", AGAIN)
        case "42501" | "58P01" | "22023":
            hint = error.diag.message_hint or "Install an output plugin that this server offers, or choose the other."
            return CheckError(f"The output plugin of the slot {slot} does not start: {problem}.", hint)
    return translate(error)


def ending(error: psycopg.Error, slot: str) -> ReplicatorError:
    """Our error for one that ended a running stream."""
    problem = _text(error)
    match error.sqlstate:
        case "42704":  # up to Postgres 17; later ones only warn
            return DefinitionError(f"A publication is not there: {problem}.", AGAIN)
        case "55000" | "58P01":
            return SlotError(f"The slot {slot} cannot go on: {problem}.", AGAIN)
    return translate(error)


def _text(error: psycopg.Error) -> str:
    parts = (error.diag.message_primary, error.diag.message_detail)
    return ": ".join(part.rstrip(".") for part in parts if part) or type(error).__name__
