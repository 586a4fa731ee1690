"""The settings that every session of ours has, whatever the environment, the role, the database or a pooler say.

libpq sends PGTZ, PGDATESTYLE and PGGEQO after ``options``, so those win over what a connection string says; a role's
and a database's own settings count where it says nothing. So all of them are set once the session is there, and read
back: what does not hold then is an error, never a value that is silently another.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, sql

from replicator.errors import CheckError, ConnectionLostError

SAFE_PATH: Final = "pg_catalog, pg_temp"
"""No schema in which anybody else could make a function or an operator that our SQL would then call."""

PINS: Final[Mapping[str, str]] = {
    "search_path": SAFE_PATH,
    # How values are printed.
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "extra_float_digits": "3",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "quote_all_identifiers": "off",
    "xmlbinary": "base64",
    # How values and statements are read.
    "array_nulls": "on",
    "backslash_quote": "safe_encoding",
    "standard_conforming_strings": "on",
    "timezone_abbreviations": "Default",
    "transform_null_equals": "off",
    "xmloption": "content",
    # Which rows are seen: Postgres raises an error where a policy would hide some, and an index leaves none out.
    "gin_fuzzy_search_limit": "0",
    "row_security": "off",
    # That the stream leaves changes out is said in a warning.
    "client_min_messages": "warning",
    # A statement that has waited for a lock sees what came of it.
    "default_transaction_deferrable": "off",
    # Of the lease too: a snapshot of before the wait would hide that another daemon has it (I6).
    # mutation: read-committed
    "default_transaction_isolation": "read committed",
    # None of our sessions is ended; every limit that we want is set where it is wanted.
    "exit_on_error": "off",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "0",
    "statement_timeout": "0",
    # Compilation costs seconds on queries that are short but look expensive.
    "jit": "off",
}

# ALTER ROLE ... SET role would make the control tables another role's, who could then forge what stands in them.
# pg_settings does not show it.
OWN_ROLE: Final[Mapping[str, str]] = {"role": "none"}

NEWER_PINS: Final = {170000: {"transaction_timeout": "0"}}
"""Settings that a server has from this version on."""

DURABLE: Final = frozenset({"on", "local", "remote_write", "remote_apply"})

GIVEN: Final[Mapping[str, frozenset[str]]] = {
    "session_replication_role": frozenset({"origin"}),
    "synchronous_commit": DURABLE,
    "zero_damaged_pages": frozenset({"off"}),
    "ignore_checksum_failure": frozenset({"off"}),
}
"""What may be as it is found, and is changed only where it is something else: most of them only a superuser may set."""

WHY: Final[Mapping[str, str]] = {
    "session_replication_role": "foreign keys would not be checked, nor triggers fired",
    "synchronous_commit": "a crash could lose rows whose arrival has been confirmed",
    "zero_damaged_pages": "rows on damaged pages would be taken for deleted",
    "ignore_checksum_failure": "damaged rows would be copied",
}

READ_ONLY: Final = ("in_hot_standby", "default_transaction_read_only", "transaction_read_only")

STARTUP: Final = " ".join(f"-c {name}=0" for name in PINS if name.endswith("_timeout"))
"""For the connection's ``options``: the time-outs must not end it before it is pinned."""

PROGRAM_OPTIONS: Final = " ".join(
    "-c {}={}".format(name, value.replace(" ", "\\ "))
    for name, value in {**PINS, **OWN_ROLE}.items()
    if name != "client_encoding"
)
"""For PGOPTIONS of Postgres' own programs: they set only some of these themselves."""


async def pin(connection: AsyncConnection[Any], *, may_be_read_only: bool = False) -> None:
    """Give a session its settings, and make sure that it has them.

    :param connection: in autocommit mode: what is set in a transaction goes when that is rolled back.
    :param may_be_read_only: for who only looks whether it is.
    :raises CheckError: naming a setting that does not hold, what it is instead, and where that may come from.
    :raises ConnectionLostError: the server is a standby: another one is the primary now, or it becomes that yet.
    """
    wanted = _wanted(connection.info.server_version)
    cursor = await connection.execute(_statement(wanted))
    while cursor.nextset():  # the settings are set by one statement, and shown by the next
        pass
    found = _read(await cursor.fetchall())
    for name in _changeable(found):
        try:
            cursor = await connection.execute(_set(name))
        except psycopg.errors.InsufficientPrivilege:
            continue
        found[name] = str((await cursor.fetchone() or ("",))[0]), "session"
    judge(wanted, found, _who(connection), may_be_read_only=may_be_read_only)


def pin_blocking(connection: psycopg.Connection[Any]) -> None:
    """The same for a connection that blocks. Raises as ``pin`` does."""
    wanted = _wanted(connection.info.server_version)
    with psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
        cursor.execute(_statement(wanted))
        while cursor.nextset():
            pass
        found = _read(cursor.fetchall())
        for name in _changeable(found):
            try:
                value = cursor.execute(_set(name)).fetchone()
            except psycopg.errors.InsufficientPrivilege:
                continue
            found[name] = str((value or ("",))[0]), "session"
    judge(wanted, found, _who(connection))


def judge(
    wanted: Mapping[str, str],
    found: Mapping[str, tuple[str, str]],
    who: tuple[str, str],
    *,
    may_be_read_only: bool = False,
) -> None:
    """Raise for the first setting that is not as wanted.

    :param found: value and source, as pg_settings has them, by the setting's name.
    :param who: the session's role and database.
    """
    if not may_be_read_only:
        _refuse_read_only(found, who)
    for name, value in wanted.items():
        held, source = found.get(name, ("unknown", "default"))
        if held != value:
            raise CheckError(
                f"The session's setting {name} is {held!r}, although it has been set to {value!r}.",
                _remedy(name, source, who),
            )
    for name, values in GIVEN.items():
        held, source = found.get(name, ("unknown", "default"))
        if held not in values:
            raise CheckError(
                f"The session's setting {name} is {held!r}: {WHY[name]}; and the role {who[0]} may not set it.",
                _remedy(name, source, who),
            )


def _refuse_read_only(found: Mapping[str, tuple[str, str]], who: tuple[str, str]) -> None:
    standby, default, now = (found.get(name, ("off", "default")) for name in READ_ONLY)
    if standby[0] == "on":
        raise ConnectionLostError(
            "The server is a standby: it takes no writes.", "Point the DSN at the primary, or promote the standby."
        )
    if default[0] == "on":
        raise CheckError(
            f"The role {who[0]} may only read: the session's setting default_transaction_read_only is 'on'.",
            _remedy("default_transaction_read_only", default[1], who),
        )
    if now[0] == "on":
        raise CheckError("The server lets the session only read.", "Point the DSN at the primary, not at a replica.")


def _remedy(name: str, source: str, who: tuple[str, str]) -> str:
    role, database = (sql.Identifier(each).as_string() for each in who)
    # A session that is read-only could not even change that.
    first = f"SET {name} = off;\n" if name == "default_transaction_read_only" else ""
    match source:
        case "user":
            return f"It comes from the role:\n{first}ALTER ROLE {role} RESET {name};"
        case "database":
            return f"It comes from the database:\n{first}ALTER DATABASE {database} RESET {name};"
        case "database user":
            where = f"ALTER ROLE {role} IN DATABASE {database} RESET {name};"
            return f"It comes from the role in this database:\n{first}{where}"
        case "global":
            return f"It comes from what is set for all roles:\n{first}ALTER ROLE ALL RESET {name};"
        case "client":
            return (
                f"It comes from the connection: take {name} out of the DSN's options, PGOPTIONS and the service file."
            )
        case "configuration file" | "command line" | "environment variable" | "override":
            return f"It comes from the server ({source}):\n{first}ALTER SYSTEM RESET {name};\nSELECT pg_reload_conf();"
    return (
        f"Something resets {name} after it is set: connect to the server itself, without a pooler, and look at its "
        "extensions and login triggers."
    )


def _wanted(version: int) -> dict[str, str]:
    newer: Iterable[Mapping[str, str]] = (pins for since, pins in NEWER_PINS.items() if version >= since)
    return {**PINS, **{name: value for pins in newer for name, value in pins.items()}}


def _statement(wanted: Mapping[str, str]) -> sql.Composed:
    """Two statements in one message. Until the first has run, the path is not ours: so every name is qualified."""
    names = sql.SQL(", ").join(map(sql.Literal, (*wanted, *GIVEN, *READ_ONLY)))
    sets = [
        sql.SQL("pg_catalog.set_config({}, {}, false)").format(name, value)
        for name, value in {**OWN_ROLE, **wanted}.items()
    ]
    return sql.SQL(
        "SELECT {}; SELECT name, setting, source FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ANY "
        "(ARRAY[{}]::pg_catalog.text[])"
    ).format(sql.SQL(", ").join(sets), names)


def _set(name: str) -> sql.Composed:
    value = "on" if "on" in GIVEN[name] else next(iter(GIVEN[name]))
    return sql.SQL("SELECT pg_catalog.set_config({}, {}, false)").format(name, value)


def _read(rows: Iterable[tuple[Any, ...]]) -> dict[str, tuple[str, str]]:
    return {name: (str(setting), source) for name, setting, source in rows}


def _changeable(found: Mapping[str, tuple[str, str]]) -> list[str]:
    return [name for name, values in GIVEN.items() if name in found and found[name][0] not in values]


def _who(connection: AsyncConnection[Any] | psycopg.Connection[Any]) -> tuple[str, str]:
    return connection.info.user, connection.info.dbname
