"""Who is in the way: the sessions and prepared transactions that a session of ours waits for, named for the operator.

Query texts are never shown: they may hold values of rows. Without the rights of ``pg_read_all_stats``, a role sees of
other roles' sessions only their process, role and application name; locks and prepared transactions it sees all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replicator.core.tables import Name
from replicator.postgres.session.connect import Connection, identifier
from replicator.postgres.session.server import fetch

HIDDEN = "pg_read_all_stats would show what it does"
WRAPAROUND = "(to prevent wraparound)"
VERBS = (
    "ALTER", "ANALYZE", "BEGIN", "CALL", "CLUSTER", "COMMIT", "COPY", "CREATE", "DECLARE", "DELETE", "DO", "DROP",
    "EXECUTE", "FETCH", "GRANT", "INSERT", "LOCK", "MERGE", "PREPARE", "REFRESH", "REINDEX", "REVOKE", "ROLLBACK",
    "SELECT", "SET", "START", "TRUNCATE", "UPDATE", "VACUUM", "WITH",
)  # fmt: skip
"""What may be said of a query: its first word, if it is one of these. All that follows may be a row's."""

# What is told of a session, and of a prepared transaction. The first word of a query alone leaves the server.
FACTS = f"""
    SELECT a.pid, a.usename::text AS role, a.datname::text AS database, a.application_name AS application,
        a.backend_type AS kind, a.state, (upper(substring(a.query FROM '^\\s*(\\w+)'))) AS verb,
        a.query LIKE 'autovacuum:%%{WRAPAROUND}' AS wraparound, a.wait_event = 'SyncRep' AS standby,
        extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds,
        extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS idle_seconds, NULL::text AS gid
    FROM pg_stat_activity a
"""
PREPARED_FACTS = """
    SELECT NULL::integer AS pid, p.owner::text AS role, p.database::text AS database, NULL::text AS application,
        'prepared' AS kind, NULL::text AS state, NULL::text AS verb, false AS wraparound, false AS standby,
        extract(epoch FROM clock_timestamp() - p.prepared)::float8 AS seconds, NULL::float8 AS idle_seconds,
        quote_literal(p.gid) AS gid
    FROM pg_prepared_xacts p
"""
# A prepared transaction has no process: pg_blocking_pids says 0, and its locks are found by what is waited for. In
# pg_locks it goes by a virtual transaction, which is its session's of old, or -1/xid after a restart.
OF_PREPARED = """
    p.transaction::text IN (
        SELECT own.transactionid::text FROM pg_locks own
        WHERE own.pid IS NULL AND own.locktype = 'transactionid' AND own.virtualtransaction IN ({found})
    )
"""
SAME_LOCK = " AND ".join(
    f"l.{part} IS NOT DISTINCT FROM w.{part}"
    for part in (
        "locktype", "database", "relation", "page", "tuple", "virtualxid", "transactionid", "classid", "objid",
        "objsubid",
    )
)  # fmt: skip
HELD_UP = f"""
    SELECT l.virtualtransaction FROM pg_locks w JOIN pg_locks l ON {SAME_LOCK}
    WHERE w.pid = %(pid)s AND NOT w.granted AND l.pid IS NULL AND l.granted
    AND (l.mode NOT IN ('AccessShareLock', 'RowShareLock') OR w.mode IN ('ExclusiveLock', 'AccessExclusiveLock'))
"""
BLOCKING = f"""
    {FACTS} WHERE a.pid = ANY (pg_blocking_pids(%(pid)s))
    UNION ALL {PREPARED_FACTS} WHERE 0 = ANY (pg_blocking_pids(%(pid)s)) AND {OF_PREPARED.format(found=HELD_UP)}
    ORDER BY seconds DESC NULLS LAST
"""
HOLDING = f"""
    WITH held AS (
        SELECT l.pid, l.virtualtransaction FROM pg_locks l
        WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.relation = ANY (%(tables)s::regclass[]::oid[]) AND l.mode <> ALL (%(harmless)s)
        AND l.pid IS DISTINCT FROM %(pid)s
    )
    {FACTS} WHERE a.pid IN (SELECT pid FROM held WHERE pid IS NOT NULL)
    UNION ALL {PREPARED_FACTS}
    WHERE {OF_PREPARED.format(found="SELECT virtualtransaction FROM held WHERE pid IS NULL")}
    ORDER BY seconds DESC NULLS LAST
"""
OLDER = f"""
    WITH running AS (
        SELECT l.pid FROM pg_locks l
        WHERE l.locktype = 'transactionid' AND l.granted AND age(l.transactionid) > age(%(xid)s::text::xid)
    )
    {FACTS} WHERE a.pid IN (SELECT pid FROM running WHERE pid IS NOT NULL)
    UNION ALL {PREPARED_FACTS} WHERE age(p.transaction) > age(%(xid)s::text::xid)
    ORDER BY seconds DESC NULLS LAST
"""
OURS = """
    SELECT a.pid, a.application_name AS application, a.wait_event = 'SyncRep' AS standby,
        extract(epoch FROM clock_timestamp() - a.query_start)::float8 AS seconds
    FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.usename = current_user AND a.application_name LIKE 'replicator %%'
        AND a.state = 'active' AND (a.wait_event_type = 'Lock' OR a.wait_event = 'SyncRep')
        AND a.query_start < clock_timestamp() - make_interval(secs => %(least)s)
    ORDER BY a.query_start, a.pid
"""


@dataclass(frozen=True, kw_only=True)
class Blocker:
    """A session, or a prepared transaction, that holds up another one."""

    who: str
    """Process, role and application; or the prepared transaction. The same at each look."""
    doing: str
    """What it does, and since when; what may be done about it."""
    vacuum: bool = False
    """An autovacuum that gives way to whoever asks for the table for longer than ``deadlock_timeout``."""

    def __str__(self) -> str:
        return f"{self.who}: {self.doing}"


@dataclass(frozen=True, kw_only=True)
class Wait:
    """A session of ours that waits for others."""

    purpose: str
    """What our session is for: ``forward apply``."""
    seconds: float
    standby: bool
    """It has committed, and waits for a synchronous standby."""
    blockers: tuple[Blocker, ...]

    @property
    def in_the_way(self) -> list[str]:
        """Each that is in the way, in words."""
        if self.standby:
            return ["no synchronous standby confirms commits (synchronous_standby_names)"]
        return [str(each) for each in self.blockers] or ["a lock whose holder is gone by now"]

    @property
    def who(self) -> list[str]:
        """Each that is in the way, without what changes from look to look."""
        return self.in_the_way if self.standby else [each.who for each in self.blockers]

    def __str__(self) -> str:
        return f"{self.purpose} has waited for {lasting(self.seconds)}: {'; '.join(self.in_the_way)}"


async def who_blocks(connection: Connection, pid: int) -> list[Blocker]:
    """Who keeps the process ``pid`` of this server waiting for a lock, the oldest transaction first."""
    return _blockers(await fetch(connection, BLOCKING, pid=pid))


async def who_holds(
    connection: Connection, tables: Sequence[Name], harmless: Sequence[str], pid: int | None
) -> list[Blocker]:
    """Who has, or waits for, a lock on these tables.

    :param harmless: the lock modes, as pg_locks names them, that are in nobody's way.
    :param pid: a process that is left out: our own.
    """
    names = [identifier(name.schema, name.table).as_string(connection) for name in tables]
    return _blockers(await fetch(connection, HOLDING, tables=names, harmless=list(harmless), pid=pid))


async def who_is_older(connection: Connection, xid: str) -> list[Blocker]:
    """Whose transaction has begun to write before the transaction ``xid``, and goes on: in any database."""
    return _blockers(await fetch(connection, OLDER, xid=xid))


async def our_waits(connection: Connection, least: float) -> list[Wait]:
    """Which sessions of ours in this database have waited for ``least`` seconds or longer, and for whom."""
    found = []
    for row in await fetch(connection, OURS, least=least):
        blockers = [] if row["standby"] else await who_blocks(connection, row["pid"])
        if blockers or row["standby"]:
            found.append(
                Wait(
                    purpose=row["application"].removeprefix("replicator "),
                    seconds=row["seconds"],
                    standby=row["standby"],
                    blockers=tuple(blockers),
                )
            )
    return found


def listed(blockers: Iterable[Blocker], most: int = 3) -> str:
    """The first few of them in one sentence's words."""
    found = list(blockers)
    more = f"; and {len(found) - most} more" if len(found) > most else ""
    return "; ".join(str(each) for each in found[:most]) + more


def lasting(seconds: float) -> str:
    """A duration in words."""
    for unit, size in (("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _blockers(rows: Iterable[Mapping[str, Any]]) -> list[Blocker]:
    return [_prepared(row) if row["gid"] else _session(row) for row in rows]


def _prepared(row: Mapping[str, Any]) -> Blocker:
    gid = _printable(row["gid"])
    return Blocker(
        who=f"the prepared transaction {gid} (role {row['role']}, database {row['database']})",
        doing=f"prepared {lasting(row['seconds'])} ago; COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid} ends it",
    )


def _session(row: Mapping[str, Any]) -> Blocker:
    names = [f"role {row['role']}" if row["role"] else "", row["application"] or "", _kind(row["kind"])]
    who = f"process {row['pid']} ({', '.join(_printable(each) for each in names if each) or 'of the server'})"
    autovacuum = row["kind"] == "autovacuum worker"
    return Blocker(who=who, doing=_doing(row), vacuum=autovacuum and not row["wraparound"])


def _kind(kind: str | None) -> str:
    return "" if kind in (None, "client backend") else str(kind)


def _doing(row: Mapping[str, Any]) -> str:
    if row["kind"] == "autovacuum worker":
        why = " to prevent wraparound, which gives way to nobody" if row["wraparound"] else ""
        return f"vacuums the table{why}, for {lasting(row['seconds'] or 0.0)}"
    if row["state"] is None:
        return HIDDEN
    since = f"; its transaction is {lasting(row['seconds'])} old" if row["seconds"] is not None else ""
    if row["standby"]:
        return f"has committed, and waits for a synchronous standby{since}"
    if row["state"].startswith("idle"):
        return f"{row['state']} for {lasting(row['idle_seconds'] or 0.0)}{since}"
    verb = f" {row['verb']}" if row["verb"] in VERBS else ""
    return f"{row['state']}{verb} for {lasting(row['idle_seconds'] or 0.0)}{since}"


def _printable(text: str) -> str:
    """Names are others' to choose: none may forge a line of the log."""
    return "".join(each if each.isprintable() else "?" for each in text)
