"""Checks of a server: its version, its settings, its slots, and what runs on it now."""

from collections.abc import Mapping
from dataclasses import dataclass

from replicator.postgres.session.server import Server, Slot, Wanted
from replicator.postgres.wire.slots import AGAIN
from replicator.preflight.finding import Check, Verdict, failed, listed, passed, warned

OLDEST = 140000
LONG = 60.0
"""Seconds after which an open transaction is worth a word."""

RELOAD = "SELECT pg_reload_conf();"


@dataclass(frozen=True, kw_only=True)
class ServerSubject:
    """A server, and what the migration wants of it."""

    variable: str
    """The setting that names it, for the remedies."""
    server: Server
    slots: Mapping[str, str]
    """Our slots that are to be on it, by name, and the database that each belongs to."""
    plugin: Wanted
    made: frozenset[str]
    """The slots that this migration has made: another one that bears our name is another's."""
    started: bool
    """Whether the daemon has ever run: before that, what bears our slot's name is another's."""

    @property
    def own(self) -> list[Slot]:
        """Those of our slots that are there."""
        return [slot for slot in self.server.slots if slot.name in self.slots]


def writable(subject: ServerSubject) -> Verdict:
    """Both sides are written to: control tables, guard triggers, and rows in both directions."""
    server = subject.server
    if server.in_recovery:
        return failed("The server is a standby.", f"Point {subject.variable} at the primary.")
    if server.read_only:
        return failed(
            "Transactions are read-only (default_transaction_read_only).",
            f"ALTER ROLE {server.role} SET default_transaction_read_only = off;",
        )
    return passed("a primary")


def wal_level(subject: ServerSubject) -> Verdict:
    """Only at the level ``logical`` does the log carry rows. A change of it needs a restart: better now than later."""
    level = subject.server.settings["wal_level"]
    if level == "logical" or (level == "replica" and subject.server.raises_wal_level):
        return passed(f"wal_level = {level}")
    return failed(
        f"wal_level is {level}: the log carries no rows.",
        "Set it and restart the server. Managed services have switches of their own: rds.logical_replication = 1 on "
        "Amazon RDS and Aurora, cloudsql.logical_decoding = on on Google Cloud SQL, alloydb.logical_decoding = on on "
        "AlloyDB, the server parameter wal_level on Azure.",
        "ALTER SYSTEM SET wal_level = logical;",
    )


def replication_role(subject: ServerSubject) -> Verdict:
    """Slots and the stream are for roles with the REPLICATION attribute only."""
    server = subject.server
    if server.replication:
        return passed(f"{server.role} may replicate")
    return failed(
        f"The role {server.role} may not replicate.",
        f"As a superuser (on Amazon RDS instead: GRANT rds_replication TO {server.role}):",
        f"ALTER ROLE {server.role} REPLICATION;",
    )


def replication_slots(subject: ServerSubject) -> Verdict:
    """Each direction has a slot, and for a while both are there."""
    limit, used = int(subject.server.settings["max_replication_slots"]), len(subject.server.slots)
    needed = len(subject.slots) - len(subject.own)
    if limit - used >= needed:
        return passed(f"{used} of {limit} in use, {needed} more needed")
    names = listed(slot.name for slot in subject.server.slots if not slot.active)
    return failed(
        f"{used} of {limit} replication slots are in use, {needed} more needed.",
        f"Drop those that nobody needs{f' (inactive: {names})' if names else ''}, or raise the limit and restart:",
        f"ALTER SYSTEM SET max_replication_slots = {used + needed + 2};",
    )


def wal_senders(subject: ServerSubject) -> Verdict:
    """Each stream takes a WAL sender."""
    limit, used = int(subject.server.settings["max_wal_senders"]), subject.server.wal_senders_used
    needed = len(subject.slots) - sum(slot.active for slot in subject.own)
    if limit - used >= needed:
        return passed(f"{used} of {limit} in use, {needed} more needed")
    return failed(
        f"{used} of {limit} WAL senders are in use, {needed} more needed.",
        "Raise the limit and restart:",
        f"ALTER SYSTEM SET max_wal_senders = {used + needed + 2};",
    )


def slot(subject: ServerSubject) -> Verdict:
    """A slot of our name that is another's, or that the server has given up, cannot be gone on with."""
    problems = [(each, problem) for each in subject.own if (problem := _slot_problem(subject, each))]
    if not problems:
        return passed(f"in place: {listed(each.name for each in subject.own)}" if subject.own else "none there yet")
    detail = "; ".join(problem for _, problem in problems) + "."
    if subject.started and all(each.name in subject.made for each, _ in problems):
        return failed(detail, AGAIN)
    return failed(
        detail,
        "Set REPLICATOR_SLOT to another name, or drop it if nobody needs it:",
        *[f"SELECT pg_drop_replication_slot('{each.name}');" for each, _ in problems],
    )


def _slot_problem(subject: ServerSubject, each: Slot) -> str | None:
    known = ("wal2json", "pgoutput") if subject.plugin == "auto" else (subject.plugin,)
    if each.kind != "logical":
        return f"the slot {each.name} is a {each.kind} one"
    if each.database != subject.slots[each.name]:
        return f"the slot {each.name} belongs to the database {each.database}"
    if each.active and not subject.started:
        return f"the slot {each.name} is in use by somebody else"
    if each.lost and subject.started:
        return f"the slot {each.name} is lost ({each.condition}): the server has removed WAL that it needed"
    if each.plugin not in known:
        return f"the slot {each.name} was made with the plugin {each.plugin}, not {' or '.join(known)}"
    if each.name not in subject.made:
        return f"this migration has not made the slot {each.name}"
    return None


def slot_limits(subject: ServerSubject) -> Verdict:
    """While we are away, the server keeps the log for us; with a limit it may give the slot up: backfill again."""
    settings = subject.server.settings
    unlimited = {"max_slot_wal_keep_size": "-1", "idle_replication_slot_timeout": "0"}
    limits = {name: settings[name] for name, none in unlimited.items() if settings.get(name, none) != none}
    if not limits:
        return passed("the server keeps the log as long as we need it; watch its disk")
    return warned(
        f"The server may give the slot up: {listed(f'{name} = {value}' for name, value in limits.items())}.",
        "Alert well below the limit, or lift it for the time of the migration:",
        *[f"ALTER SYSTEM SET {name} = {unlimited[name]};" for name in limits],
        RELOAD,
    )


def wal_sender_timeout(subject: ServerSubject) -> Verdict:
    """Without it the server notices a cut network only after a quarter of an hour, and the slot stays taken."""
    value = subject.server.settings["wal_sender_timeout"]
    if value != "0":
        return passed(f"wal_sender_timeout = {value}")
    return warned(
        "wal_sender_timeout is 0: after a cut network the slot stays taken for a quarter of an hour.",
        f"ALTER ROLE {subject.server.role} SET wal_sender_timeout = '1min';",
    )


def durability(subject: ServerSubject) -> Verdict:
    """A server that forgets commits in a crash can fall behind what the other side has, and nothing tells."""
    if subject.server.settings["fsync"] != "off":
        return passed("commits are flushed")
    return warned("A crash of the server may lose commits: fsync is off.", "ALTER SYSTEM SET fsync = on;", RELOAD)


def long_transactions(subject: ServerSubject) -> Verdict:
    """The creation of a slot waits for every open transaction that has written, in any database; the cutover does."""
    found = subject.server.long_transactions
    if not found:
        blind = "" if subject.server.sees_all_sessions else "; only our own are visible without pg_read_all_stats"
        return passed(f"none that has written is older than {LONG:.0f} s{blind}")
    return warned(
        "The slot's creation will wait for open transactions: "
        f"{listed(f'process {each.pid}, {each.seconds:.0f} s, {each.application!r}' for each in found)}.",
        "Let them end, or end them:",
        *[f"SELECT pg_terminate_backend({each.pid});" for each in found],
    )


def prepared_transactions(subject: ServerSubject) -> Verdict:
    """A prepared transaction is an open one that outlives its session, and the server's restart."""
    found = subject.server.prepared
    if not found:
        return passed(f"none is older than {LONG:.0f} s")
    return warned(
        f"The slot's creation will wait for prepared transactions: "
        f"{listed(f'{each.gid} in {each.database} ({each.seconds:.0f} s)' for each in found)}.",
        "Commit them or, in their database, roll them back:",
        *[f"ROLLBACK PREPARED {each.gid};" for each in found],
    )


CHECKS: tuple[Check[ServerSubject], ...] = (
    writable,
    wal_level,
    replication_role,
    replication_slots,
    wal_senders,
    slot,
    slot_limits,
    wal_sender_timeout,
    durability,
    long_transactions,
    prepared_transactions,
)

NEEDED_FOR_A_STREAM = ("writable", "wal_level", "replication_role", "replication_slots", "wal_senders")
"""Where one of these fails, no stream can be tried."""
