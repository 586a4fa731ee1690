"""The two databases: are they there, can their servers be followed, and may we work in them."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from replicator.errors import CheckError, ReplicatorError
from replicator.migration import Direction, Migration
from replicator.postgres.catalog.inspect import Database, control_migration, read_database
from replicator.postgres.control.control import FINALIZED, read_phase
from replicator.postgres.control.owned import noted
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.session.dsn import describe
from replicator.postgres.session.server import Plugin, Server, Wanted, choose_plugin, read_server, server_version
from replicator.postgres.session.trust import refuse_strangers
from replicator.postgres.wire.walsender import identify_system
from replicator.preflight import database_checks, server_checks
from replicator.preflight.database_checks import Label
from replicator.preflight.facts import state
from replicator.preflight.finding import Report, failed, passed
from replicator.settings import Settings

DIRECTIONS: tuple[Direction, ...] = ("forward", "reverse")

POOLER = (
    "Give the DSN of the server itself, not of a pooler: PgBouncer before 1.23 and Supavisor cannot carry replication. "
    "And let pg_hba.conf admit the role."
)


@dataclass(kw_only=True)
class Side:
    """One of the two databases."""

    label: Label
    dsn: str
    connection: Connection
    server: Server
    database: Database
    control: str | None
    """The migration that the control tables belong to."""
    phase: str | None
    renamed: bool
    """That one has renamed tables, and not given the names back."""
    made: frozenset[str]
    """The slots that the migration has made through this database."""
    plugin: Plugin | None = None
    """What its log can be decoded with; None: with nothing, and a finding says so."""

    def begins(self, migration: Migration) -> None:
        """Another migration that is over is in nobody's way: take what it has left for nothing."""
        if self.control != migration.name and self.phase == FINALIZED and not self.renamed:
            self.control = self.phase = None

    def shares_server(self, other: "Side") -> bool:
        """Whether both are on one server."""
        return self.server.identity == other.server.identity

    def shares_database(self, other: "Side") -> bool:
        """Whether both are one database."""
        return self.shares_server(other) and self.server.database == other.server.database


async def open_side(
    report: Report, stack: AsyncExitStack, settings: Settings, label: Label, schema: str
) -> Side | None:
    """Connect, and read the facts; None when the database does not answer. The connection is left on the stack."""
    check = f"{label}.connection"
    dsn = settings.source if label == "source" else settings.target
    with report.stage(check):
        where = describe(dsn)
        opened = await _open(stack, dsn, where)
        if not _is_new_enough(report, label, opened):
            return None
        await refuse_strangers(opened, to_change=True)
        server = await read_server(opened, older_than=server_checks.LONG)
        database = await read_database(opened, schema, {settings.publication_of(each) for each in DIRECTIONS})
        control = await control_migration(opened)
        side = Side(
            label=label,
            dsn=dsn,
            connection=opened,
            server=server,
            database=database,
            control=control,
            phase=await read_phase(opened) if control is not None else None,
            renamed=bool((await read_places(opened)).moved),
            made=frozenset(await noted(opened, "slot")),
        )
        report.say(check, passed(f"{where} as {server.role}"))
        return side
    return None


async def _open(stack: AsyncExitStack, dsn: str, where: str) -> Connection:
    try:
        return await stack.enter_async_context(connection(dsn, "check", may_be_read_only=True))
    except ReplicatorError as error:
        raise CheckError(f"No connection to {where}. {error.problem}", error.remedy) from error


def _is_new_enough(report: Report, label: Label, opened: Connection) -> bool:
    """Older servers lack what the stream and the catalogue queries need."""
    version = server_version(opened)
    if version.number < server_checks.OLDEST:
        verdict = failed(f"PostgreSQL {version.text} is too old.", "Upgrade the server to 14 or later.")
    else:
        verdict = passed(f"PostgreSQL {version.text}")
    report.say(f"{label}.version", verdict)
    return verdict.outcome == "pass"


async def check_servers(report: Report, settings: Settings, source: Side | None, target: Side | None) -> None:
    """The target is followed too, after the cutover; so its server must fit as well."""
    forward, reverse = settings.slot_of("forward"), settings.slot_of("reverse")
    started = target is not None and target.phase is not None
    if source is not None and target is not None and source.shares_server(target):
        slots = {forward: source.server.database, reverse: target.server.database}
        await _check_server(report, settings, source, slots, source.made | target.made, started=started)
        target.plugin = source.plugin
        return
    for side, slot in ((source, forward), (target, reverse)):
        if side is not None:
            await _check_server(report, settings, side, {slot: side.server.database}, side.made, started=started)


async def _check_server(
    report: Report, settings: Settings, side: Side, slots: Mapping[str, str], made: frozenset[str], *, started: bool
) -> None:
    subject = server_checks.ServerSubject(
        variable=f"REPLICATOR_{side.label.upper()}_DSN",
        server=side.server,
        slots=slots,
        plugin=settings.plugin,
        made=made,
        started=started,
    )
    report.judge(side.label, server_checks.CHECKS, subject)
    if not report.failed(*(f"{side.label}.{name}" for name in server_checks.NEEDED_FOR_A_STREAM)):
        await _check_stream(report, side)
        await _check_plugin(report, side, subject)


async def _check_stream(report: Report, side: Side) -> None:
    """Poolers and proxies let ordinary connections through, and no replication."""
    check = f"{side.label}.replication_connection"
    try:
        system_id = (await identify_system(side.dsn)).system_id
    except ReplicatorError as error:
        report.say(check, failed(error.problem, POOLER))
        return
    if system_id == side.server.system_id:
        report.say(check, passed("it opens"))
    else:
        report.say(check, failed("The replication connection leads to another server.", POOLER))


async def _check_plugin(report: Report, side: Side, subject: server_checks.ServerSubject) -> None:
    """Whether a plugin can be used is known only by using it; an existing slot has chosen already."""
    with report.stage(f"{side.label}.plugin"):
        side.plugin = await choose_plugin(side.connection, _wanted(subject))
        report.say(f"{side.label}.plugin", passed(side.plugin))


def _wanted(subject: server_checks.ServerSubject) -> Wanted:
    present = {slot.plugin for slot in subject.own}
    if subject.plugin == "auto" and present == {"pgoutput"}:
        return "pgoutput"
    if subject.plugin == "auto" and present == {"wal2json"}:
        return "wal2json"
    return subject.plugin


def check_database(report: Report, side: Side, migration: Migration, *, again: bool = False) -> None:
    """What must hold in a database, whatever its tables; where both sides are one, only the schema is another."""
    subject = database_checks.DatabaseSubject(
        database=side.database,
        migration=migration.name,
        control=side.control,
        side=side.label,
        renamed=side.phase == FINALIZED and side.renamed,
        published=side.plugin == "pgoutput",
    )
    if not again:
        state(report, side.label, database_checks.FACTS, subject)
    state(report, side.label, database_checks.SCHEMA, subject)
