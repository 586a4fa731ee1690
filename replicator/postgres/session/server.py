"""Facts about a server, and which output plugin it lets us use."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, tuple_row

from replicator.errors import CheckError
from replicator.postgres.session.connect import Connection, translate, translated

Plugin = Literal["wal2json", "pgoutput"]
Wanted = Literal["auto", "wal2json", "pgoutput"]
Probe = Literal["usable", "absent", "refused"]

PLUGIN_LIST = "output_plugin_libraries"
PLUGIN_LIST_DEFAULT = "pgoutput, test_decoding"
PROBE_MILLISECONDS = 1_000

SETTINGS = (
    "fsync",
    "idle_replication_slot_timeout",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "wal_level",
    "wal_sender_timeout",
)

SERVER = """
    SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system_id,
           pg_postmaster_start_time()::text AS started, current_database()::text AS database,
           quote_ident(current_user) AS role, r.rolsuper AS superuser,
           r.rolsuper OR r.rolreplication OR coalesce(
               (SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = 'rds_replication'), false
           ) AS replication,
           pg_is_in_recovery() AS in_recovery,
           current_setting('default_transaction_read_only')::boolean AS read_only,
           pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all_sessions,
           (SELECT count(*) FROM pg_stat_replication)::int AS wal_senders_used,
           -- PostgreSQL 19 raises the level by itself when a logical slot appears.
           current_setting('effective_wal_level', true) IS NOT NULL AS raises_wal_level
    FROM pg_roles r WHERE r.rolname = current_user
"""

# Not every version has every column; through jsonb an absent one is null.
SLOTS = """
    SELECT s.slot_name::text AS name, s.plugin::text AS plugin, s.slot_type AS kind, s.database::text AS database,
           s.active, coalesce(to_jsonb(s) ->> 'invalidation_reason', s.wal_status) AS condition,
           s.wal_status = 'lost' OR to_jsonb(s) ->> 'invalidation_reason' IS NOT NULL AS lost
    FROM pg_replication_slots s ORDER BY 1
"""

# Only a transaction that has written holds up the creation of a slot, in whatever database it is.
LONG_TRANSACTIONS = """
    SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds,
           coalesce(application_name, '') AS application
    FROM pg_stat_activity
    WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
      AND xact_start < clock_timestamp() - make_interval(secs => %(older_than)s)
    ORDER BY xact_start
"""

PREPARED = """
    SELECT quote_literal(gid) AS gid, database::text AS database,
           extract(epoch FROM clock_timestamp() - prepared)::float8 AS seconds
    FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - make_interval(secs => %(older_than)s)
    ORDER BY prepared
"""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A replication slot; ``condition`` is why it is lost, or its wal_status."""

    name: str
    plugin: str | None
    kind: str
    database: str | None
    active: bool
    condition: str | None
    lost: bool | None


@dataclass(frozen=True, kw_only=True)
class OpenTransaction:
    """A transaction that has written and is still open."""

    pid: int
    seconds: float
    application: str


@dataclass(frozen=True, kw_only=True)
class PreparedTransaction:
    """A transaction after PREPARE TRANSACTION; ``gid`` as a quoted literal."""

    gid: str
    database: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server, as one role sees it from one database. ``role`` is quoted for use in SQL."""

    system_id: str
    started: str
    database: str
    role: str
    superuser: bool
    replication: bool
    in_recovery: bool
    read_only: bool
    sees_all_sessions: bool
    wal_senders_used: int
    raises_wal_level: bool
    settings: Mapping[str, str]
    """As SHOW prints them; those that this version does not know are absent."""
    slots: tuple[Slot, ...]
    long_transactions: tuple[OpenTransaction, ...]
    prepared: tuple[PreparedTransaction, ...]

    @property
    def identity(self) -> tuple[str, str]:
        """The same for two connections to one running server; copies of a data folder share their system id."""
        return self.system_id, self.started


class Version(NamedTuple):
    """A server's version: 150020 is 15.20."""

    number: int
    text: str


def server_version(connected: Connection) -> Version:
    """The server's version, known without a query."""
    return Version(connected.info.server_version, connected.info.parameter_status("server_version") or "?")


async def fetch(connected: Connection, query: str, **parameters: Any) -> list[dict[str, Any]]:
    """The rows of a query of ours, as dicts."""
    with translated():
        async with connected.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(sql.SQL(query), parameters)
            return await cursor.fetchall()


async def fetch_plain(connected: Connection, query: str, **parameters: Any) -> list[dict[str, Any]]:
    """Likewise, with the values as JSON has them, whatever types the connection gives."""
    with translated():
        async with connected.cursor(row_factory=tuple_row) as cursor:
            wrapped = sql.SQL("SELECT pg_catalog.to_jsonb(q)::pg_catalog.text FROM ({}) AS q").format(sql.SQL(query))
            await cursor.execute(wrapped, parameters)
            return [json.loads(row[0]) for row in await cursor.fetchall()]


async def read_server(connected: Connection, *, older_than: float) -> Server:
    """Facts about the server.

    :param older_than: from how many seconds on an open or prepared transaction counts as long.
    """
    (facts,) = await fetch(connected, SERVER)
    settings = await fetch(
        connected, "SELECT name, current_setting(name) AS value FROM pg_settings WHERE name = ANY (%(names)s)",
        names=list(SETTINGS),
    )  # fmt: skip
    return Server(
        **facts,
        settings={each["name"]: each["value"] for each in settings},
        slots=tuple(Slot(**each) for each in await fetch(connected, SLOTS)),
        long_transactions=tuple(
            OpenTransaction(**each) for each in await fetch(connected, LONG_TRANSACTIONS, older_than=older_than)
        ),
        prepared=tuple(PreparedTransaction(**each) for each in await fetch(connected, PREPARED, older_than=older_than)),
    )


# ---- the output plugin


async def choose_plugin(connected: Connection, wanted: Wanted) -> Plugin:
    """The output plugin to create slots with; ``auto`` is wal2json where the server has and allows it, else pgoutput.

    Raises CheckError when the wanted one is not to be had, or when the server creates no logical slot at all.
    """
    for plugin in ("wal2json", "pgoutput") if wanted == "auto" else (wanted,):
        found = await probe_plugin(connected, plugin)
        if found == "usable":
            return plugin
        if wanted != "auto" or plugin == "pgoutput":
            raise await _unusable(connected, plugin, found)
    raise AssertionError(wanted)


async def probe_plugin(connected: Connection, plugin: str) -> Probe:
    """Whether the server creates a slot with this plugin.

    The list of allowed plugins is hidden from ordinary roles, and no catalogue tells which libraries are installed, so
    a temporary slot is the only proof; created and dropped in one statement, and by the server itself on any error. The
    server loads the plugin first and waits for open transactions after that: if it still waits when the time is up,
    the plugin is usable.

    Raises CheckError when it is not the plugin that is in the way.
    """
    try:
        async with connected.transaction():
            await connected.execute(f"SET LOCAL statement_timeout = {PROBE_MILLISECONDS}")
            await connected.execute(
                "SELECT pg_drop_replication_slot(slot_name) "
                "FROM pg_create_logical_replication_slot('replicator_probe_' || pg_backend_pid(), %s, true)",
                (plugin,),
            )
    except psycopg.errors.QueryCanceled:
        return "usable"
    except psycopg.errors.UndefinedFile:
        return "absent"
    except psycopg.errors.InsufficientPrivilege as error:
        # Whatever the language of the message, it names the plugin only when it is about the plugin.
        if f'"{plugin}"' in (error.diag.message_primary or ""):
            return "refused"
        raise _no_slot(error) from error
    except psycopg.Error as error:
        raise _no_slot(error) from error
    return "usable"


def _no_slot(error: psycopg.Error) -> Exception:
    if not error.sqlstate:
        return translate(error)
    return CheckError(
        f"The server creates no logical replication slot: {error.diag.message_primary}.",
        "It needs wal_level = logical, a free replication slot and the REPLICATION attribute; see `replicator check`.",
    )


async def _unusable(connected: Connection, plugin: str, found: Probe) -> CheckError:
    other = "pgoutput" if plugin == "wal2json" else "wal2json"
    if found == "absent":
        package = f" (Debian: apt-get install postgresql-{connected.info.server_version // 10000}-wal2json)"
        return CheckError(
            f"The output plugin {plugin} is not installed on the server.",
            f"Install it{package if plugin == 'wal2json' else ''}, or set REPLICATOR_PLUGIN={other}.",
        )
    rows = await fetch(connected, "SELECT setting FROM pg_settings WHERE name = %(name)s", name=PLUGIN_LIST)
    # A role that may not read the setting gets no row.
    present = rows[0]["setting"] if rows else PLUGIN_LIST_DEFAULT
    return CheckError(
        f"The server does not allow the output plugin {plugin}.",
        f"Set REPLICATOR_PLUGIN={other}; or, as a superuser, add it to the list {PLUGIN_LIST} (separate names, not one "
        "quoted string) and reload:\n"
        f"ALTER SYSTEM SET {PLUGIN_LIST} = {allow(present, plugin)};\nSELECT pg_reload_conf();",
    )


def allow(present: str, plugin: str) -> str:
    """The list of plugins with one more, as ALTER SYSTEM wants it; one name with commas in it becomes several."""
    names = [
        part.strip()
        for quoted, plain in re.findall(r'"((?:[^"]|"")*)"|([^,\s]+)', present)
        for part in (quoted or plain).replace('""', '"').split(",")
    ]
    return ", ".join(_list_item(name) for name in dict.fromkeys([*names, plugin]) if name)


def _list_item(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else "'" + name.replace("'", "''") + "'"
