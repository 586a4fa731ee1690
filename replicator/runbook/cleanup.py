"""The end of the old tables: archived, looked at once more under a lock, and dropped in one transaction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.core.tables import Name
from replicator.errors import CheckError, ConnectionLostError, NotReadyError, RetryableError
from replicator.migration import Migration
from replicator.postgres.catalog.dependents import Dependent
from replicator.postgres.control.control import installed, migration_there, read_phase
from replicator.postgres.control.created import objects_in
from replicator.postgres.control.journal import record, recorded
from replicator.postgres.control.mailbox import operator
from replicator.postgres.control.ownership import read_ownership
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.ddl.archives import (
    Fingerprint,
    KnownBackup,
    OldTable,
    backup_since,
    dependents,
    drop_tables,
    fingerprint,
    owner_since,
    read_old_tables,
    see_every_row,
)
from replicator.postgres.locking.locks import EVERYBODY, in_turns, lock_tables
from replicator.postgres.session.connect import Connection, connection
from replicator.runbook.backup import Archive, make_archive
from replicator.runbook.finish import leases
from replicator.runbook.freezing import SILENT, old_tables, told, users_of
from replicator.settings import Settings
from replicator.switchover.handover import owner_now
from replicator.switchover.phases import Phase

LOCK_SECONDS = 0.5
"""How long an attempt may queue for the lock: everybody queues behind it."""
TRIES = 60
WAITING = "waiting for the lock on the old tables"
ON_DEPENDENTS = "Drop these yourself, or change them, and run it again; nothing is dropped with CASCADE."

Watch = Callable[[str, str], None]
"""Told the step that goes on, and how far it is."""


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """Why the old tables cannot go yet."""

    problem: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would go, what would stay, and what is in the way; ``tables`` has parents first."""

    tables: list[OldTable]
    left: list[str]
    obstacles: list[Obstacle]
    backup: KnownBackup | None
    beside: list[str]
    """What else is to be known before they go, a sentence each."""

    @property
    def bytes(self) -> int:
        """What the tables take on the server's disk, indexes and all."""
        return sum(each.bytes for each in self.tables)

    def refuse(self) -> None:
        """Raise NotReadyError when something is in the way."""
        if self.obstacles:
            first, *others = self.obstacles
            beside = "".join(f" {each.problem} {each.remedy}" for each in others)
            raise NotReadyError(first.problem, f"{first.remedy}{beside}")


async def plan(settings: Settings, migration: Migration) -> Plan:
    """Look, and change nothing. Raises NotReadyError when no migration was ever started here."""
    async with connection(settings.source, "cleanup") as source, connection(settings.target, "cleanup") as target:
        if not await installed(source) or not await installed(target):
            raise NotReadyError("No migration has been started here.", "There is nothing to clean up.")
        places = await read_places(source)
        names = {places.now(Name(schema=migration.old, table=each)).table for each in old_tables(migration)}
        tables = await read_old_tables(source, migration.old, names)
        since = await owner_since(source)
        backup = await backup_since(target, since) if since else None
        obstacles = await _too_early(settings, migration, source, target)
        if backup is None:
            problem = "There is no backup younger than the cutover."
            obstacles.append(Obstacle(problem=problem, remedy="Make one: `replicator backup`."))
        users = await users_of(source, migration)
        if needed := await _needed(source, tables, users):
            problem = f"The old tables are still needed by: {', '.join(needed)}."
            obstacles.append(Obstacle(problem=problem, remedy=ON_DEPENDENTS))
        gone = {member for each in tables for member in each.members}
        objects = sorted(await objects_in(source, migration.old))
        staying = [each for each in objects if each.type != "schema" and each.identity not in gone]
        left = [f"{each.type} {each.identity}" for each in staying]
        beside = told([each for each in users if each.hint or each.kind == "publication"])
        return Plan(tables=tables, left=left, obstacles=obstacles, backup=backup, beside=beside)


async def _needed(source: Connection, tables: list[OldTable], users: list[Dependent]) -> list[str]:
    """What Postgres refuses to drop them for, and what it would drop or empty along with them without a word."""
    oids = {each.oid for each in tables}
    silent = [str(each) for each in users if each.root in oids and each.level == 1 and each.kind in SILENT]
    return list(dict.fromkeys([*await dependents(source, tables), *silent]))


async def _too_early(
    settings: Settings, migration: Migration, source: Connection, target: Connection
) -> list[Obstacle]:
    found = []
    phase = await read_phase(target)
    name = await migration_there(target)
    if name != migration.name:
        found.append(
            Obstacle(
                problem=f"This database is in the middle of the migration {name}.",
                remedy=f"The old tables of {migration.name} are yours to drop.",
            )
        )
    elif phase != Phase.FINALIZED:
        found.append(
            Obstacle(
                problem=f"The old tables stay until the migration is over; the phase is {phase or Phase.NEW}.",
                remedy="It ends with `replicator finalize`, after the cutover and the soak.",
            )
        )
    if (await owner_now(settings)).owner == "old" or (await read_ownership(source)).owner == "old":
        found.append(Obstacle(problem="The old schema owns the data.", remedy="Cut over first: `replicator cutover`."))
    return found


async def clean_up(
    settings: Settings, migration: Migration, parent: Path, watch: Watch, note: Callable[[str], None]
) -> tuple[Plan, Archive]:
    """Archive the old tables, and drop them.

    :param note: told where the archive is, as soon as it is.
    :raises NotReadyError: something is in the way; nothing has changed.
    :raises BackupError: an archive is not what was written; nothing was dropped.
    :raises CheckError: the tables have changed since they were archived, or are always in use; nothing was dropped.
    :raises LeaseError: a daemon runs.
    """
    async with recorded(settings.target, "cleanup", {"to": str(parent)}) as entry, leases(settings):
        planned = await plan(settings, migration)
        planned.refuse()
        if not planned.tables:
            raise NotReadyError("No old table is left to drop.")
        async with connection(settings.source, "cleanup") as source:
            made = await make_archive(source, planned.tables, parent, watch)
            note(f"The archive is in {made.folder}.")
            await record(settings.target, "archive", _entry(made))
            watch(WAITING, "")
            async with connection(settings.source, "cleanup watch") as observer:
                await _drop(source, migration, planned.tables, made.fingerprints, watch, observer)
        entry["dropped"] = [str(each) for each in planned.tables]
        entry["freed_bytes"] = planned.bytes
    return planned, made


def _entry(made: Archive) -> dict[str, Any]:
    return {
        "folder": str(made.folder),
        "tables": len(made.fingerprints),
        "rows": sum(each.rows for each in made.fingerprints.values()),
        "bytes": made.bytes,
        "manifest_sha256": made.manifest_sha256,
        "by": operator(),
    }


async def _drop(
    source: Connection,
    migration: Migration,
    tables: list[OldTable],
    archived: Mapping[str, Fingerprint],
    watch: Watch,
    observer: Connection,
) -> None:
    """In short turns for the lock: whoever waits for it holds up everybody behind."""

    async def once() -> None:
        await _drop_once(source, migration, tables, archived, watch, observer)

    async def tell(problem: str) -> None:
        watch(WAITING, problem)

    try:
        await in_turns(once, observer, _names(tables), tries=TRIES, tell=tell)
    except RetryableError as error:
        raise CheckError(
            f"Somebody always uses the old tables: {error.problem} Nothing was dropped.",
            "Wait until it has ended, or end it, and run it again.",
        ) from error
    except ConnectionLostError as error:
        raise ConnectionLostError(
            "The connection was lost while the old tables were dropped.",
            "Run it again: it says which are still there. They go together, or not at all.",
        ) from error


async def _drop_once(
    source: Connection,
    migration: Migration,
    tables: list[OldTable],
    archived: Mapping[str, Fingerprint],
    watch: Watch,
    observer: Connection,
) -> None:
    async with source.transaction():
        await lock_tables(source, _names(tables), EVERYBODY, LOCK_SECONDS, observer)
        await see_every_row(source)
        if (await read_ownership(source)).owner == "old":
            raise CheckError("The old schema owns the data. Nothing was dropped.", "See `replicator status`.")
        if needed := await _needed(source, tables, await users_of(source, migration)):
            raise CheckError(
                f"The old tables are still needed by: {', '.join(needed)}. Nothing was dropped.", ON_DEPENDENTS
            )
        for each in tables:
            watch("comparing the tables with the archive", str(each))
            if await fingerprint(source, each) != archived[str(each)]:
                raise CheckError(
                    f"{each} has changed since it was archived. Nothing was dropped.",
                    "Find out who still writes to it, and run it again.",
                )
        watch("dropping", "")
        await drop_tables(source, tables)


def _names(tables: list[OldTable]) -> list[Name]:
    return [Name(schema=each.schema, table=each.name) for each in tables]
