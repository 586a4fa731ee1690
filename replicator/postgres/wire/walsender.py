"""Walsender connections: how they are opened, what they are told, and what their complaints mean."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic

from replicator.core.lsn import LSN, format_lsn, parse_lsn
from replicator.core.tables import Name
from replicator.errors import CheckError, ConnectionLostError, DefinitionError, ReplicatorError, SlotError
from replicator.postgres.session.connect import Connection, connect, connection, translate, translated
from replicator.postgres.session.server import fetch_plain
from replicator.postgres.wire.slots import AGAIN


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


Matters = Callable[[str], Awaitable[bool]]
"""Whether a table is one that is followed; it is asked with what ``left_out_of`` returns."""


async def everything_matters(_: str) -> bool:
    """Where nobody says what is followed."""
    return True


_LEFT_OUT = ("no tuple ", "no old tuple ")
_IN_TABLE = " in table "

# No name can be read out of the text for certain, for quotes in it are not doubled; but each name can be written so.
_NAMED_SO = """
    SELECT n.nspname, r.relname FROM pg_class c JOIN pg_namespace cn ON cn.oid = c.relnamespace
    JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid)::oid, c.oid)
    JOIN pg_namespace n ON n.oid = r.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm')
    AND %(text)s::text IN ('"' || cn.nspname || '"."' || c.relname || '"', '"' || c.relname || '"')
"""


def says_left_out(notice: Diagnostic) -> bool:
    """Whether a notice says that changes are left out of the stream.

    wal2json does so for a table without replica identity; its text is never translated. From 18 on, pgoutput does so
    when a publication is missing (where it failed before), with a code of its own.
    """
    return (notice.message_primary or "").startswith(_LEFT_OUT) or notice.sqlstate == "55000"


def left_out_of(notice: str) -> str | None:
    """The table whose changes a notice of wal2json is about, as it is written there; None: it is about all of them."""
    return notice.partition(_IN_TABLE)[2] or None if notice.startswith(_LEFT_OUT) else None


async def is_followed(dsn: str, written: str, followed: Collection[Name]) -> bool:
    """Whether a table, as wal2json writes it, is one of these or a partition of one.

    One that is no longer there is taken for none: a partition that has gone is noticed by that, and all is compared.
    """
    if any(written in (f'"{each.schema}"."{each.table}"', f'"{each.table}"') for each in followed):
        return True
    async with connection(dsn, "notice") as asking:
        found = await fetch_plain(asking, _NAMED_SO, text=written)
    return any(Name(schema=each["nspname"], table=each["relname"]) in followed for each in found)


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
