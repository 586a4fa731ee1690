"""The two ends of a migration: ``finalize`` after the soak, ``abort`` before the cutover. The caller holds the leases.

Each may be run again after it was interrupted.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

from replicator.core.tables import Name
from replicator.errors import CheckError, NotReadyError, RetryableError
from replicator.migration import Direction, Migration
from replicator.pipeline.setup import Ends
from replicator.postgres.control.control import (
    installed,
    journal,
    read_phase,
    refuse_another,
    upgrade,
    upgrade_all,
    write_phase,
)
from replicator.postgres.control.created import Made, drop_created
from replicator.postgres.control.lease import Lease
from replicator.postgres.control.ownership import limit_lock
from replicator.postgres.control.progress import drop_progress
from replicator.postgres.control.removal import drop_control, refuse_control_dependents
from replicator.postgres.guarding.guards import drop_guard, forget_closed, guarded_tables
from replicator.postgres.guarding.resting import give_back
from replicator.postgres.locking.locks import LockedOutError, in_turns, patiently
from replicator.postgres.session.connect import Connection, connection, translated
from replicator.postgres.wire.origins import drop_origin, origin_of
from replicator.postgres.wire.slots import drop_publication, drop_slot, read_slot
from replicator.settings import Settings
from replicator.switchover.handover import owner_now
from replicator.switchover.phases import Phase
from replicator.switchover.request import Report

T = TypeVar("T")

LOCK_SECONDS = 0.5
TRIES = 60
DIRECTIONS: tuple[Direction, ...] = ("forward", "reverse")


@dataclass(kw_only=True)
class Removed:
    """What is no longer there."""

    slots: list[str] = field(default_factory=list)
    guards: list[str] = field(default_factory=list)
    """The tables that carried one."""
    objects: list[str] = field(default_factory=list)
    """What the migration's DDL had made."""

    def as_answer(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@asynccontextmanager
async def leases(settings: Settings) -> AsyncIterator[None]:
    """Hold both databases' leases, so that no daemon starts meanwhile. Raises LeaseError when one runs."""
    await upgrade_all((settings.target, settings.source))
    async with AsyncExitStack() as stack:
        for dsn in dict.fromkeys((settings.target, settings.source)):
            async with connection(dsn, "lease") as asking:
                there = await installed(asking)
            if there:
                async with connection(dsn, "lease") as asking:
                    await upgrade(asking)
                lease = await Lease.acquire(dsn)
                stack.push_async_callback(lease.release)
        yield


# ---- finalize


async def check_soaked(settings: Settings, *, now: bool) -> None:
    """Raise NotReadyError unless the new schema has owned the data for long enough; ``now`` asks for no time at all."""
    async with connection(settings.target, "finalize") as target:
        if not await installed(target):
            raise NotReadyError("No migration has been started here.", "See `replicator check`.")
        phase = await read_phase(target)
        if phase not in (Phase.SOAK, Phase.FINALIZED):
            raise NotReadyError(
                f"There is nothing to finalize in the phase {phase}.",
                "Finalize comes after the cutover; to give the migration up, use `replicator abort`.",
            )
        with translated():
            cursor = await target.execute(
                "SELECT extract(epoch FROM clock_timestamp() - since)::float8 / 3600 FROM _replicator.ownership"
            )
            row = await cursor.fetchone()
    hours = row[0] if row else 0.0
    if phase == Phase.SOAK and not now and hours < settings.soak:
        raise NotReadyError(
            f"The new schema has owned the data for {hours:.1f} hours only; REPLICATOR_SOAK is {settings.soak:g}.",
            "Wait, or use --now: after that, going back is by backup only.",
        )


async def finalize(settings: Settings, migration: Migration, report: Report, *, now: bool) -> Removed:
    """The same without a daemon. Raises NotReadyError, LeaseError, MigrationError."""
    for dsn in dict.fromkeys((settings.target, settings.source)):
        async with connection(dsn, "finalize") as asking:
            await refuse_another(asking, migration)
    await check_soaked(settings, now=now)
    async with leases(settings):
        async with connection(settings.target, "finalize") as target:
            if await read_phase(target) != Phase.FINALIZED:
                await write_phase(target, Phase.FINALIZED)
        return await finalize_now(settings, migration, report)


async def finalize_now(settings: Settings, migration: Migration, report: Report) -> Removed:
    """Remove slots, publications, guards and all memory. The phase is stored already; the journal is kept."""
    async with connection(settings.source, "finalize") as source:
        if await read_phase(source) != Phase.FINALIZED:  # in a database of its own: another migration may begin there
            await write_phase(source, Phase.FINALIZED)
    removed = Removed()
    await _remove_streams(settings, removed, report)
    await _remove_guards(settings, removed, report)
    for direction in DIRECTIONS:
        async with connection(Ends.of(settings, direction).target_dsn, "finalize") as target:
            await drop_progress(target, direction)
    async with connection(settings.target, "finalize") as target:
        await journal(target, "finalized", {"migration": migration.name, **removed.as_answer()})
    return removed


# ---- abort


async def abort(settings: Settings, migration: Migration, report: Report) -> Removed:
    """Give the migration up while the old schema owns the data: all that is ours goes, from both databases.

    :raises NotReadyError: the new schema owns the data, or there is nothing to give up.
    :raises MigrationError: what is there is another migration.
    :raises LeaseError: a daemon runs.
    :raises CheckError: something of somebody else's depends on a new table; nothing has changed.
    """
    async with connection(settings.target, "abort") as target, connection(settings.source, "abort") as source:
        there = [each for each in (target, source) if await installed(each)]
        if not there:
            raise NotReadyError("No migration has been started here.", "There is nothing to give up.")
        for each in there:
            await refuse_another(each, migration)
        now = await owner_now(settings) if len(there) == 2 else None
        if now is not None and (now.rolling or now.settling):
            raise NotReadyError(
                "Both schemas take writes.", "Go back first with `replicator rollback`, while the daemon runs."
            )
        if now is not None and await read_phase(target) == Phase.FINALIZED:
            raise NotReadyError(
                "The migration is over: there is nothing to give up.", "Only `replicator cleanup` is left to do."
            )
        if now is not None and now.owner == "new":
            raise NotReadyError(
                "The new schema owns the data.",
                "Go back first with `replicator rollback`, or use `replicator finalize`.",
            )

    async def tell(why: str) -> None:
        await report(f"waiting for a lock: {why}")

    async with leases(settings):
        await _refuse_dependents(settings, migration, tell)
        removed = Removed()
        await _remove_streams(settings, removed, report)
        await _remove_guards(settings, removed, report)
        await report("dropping the new tables")
        async with connection(settings.target, "abort") as target:
            if await installed(target):
                drop = partial(drop_created, target)
                gone, _ = await _own_locks(patiently(target, drop, what="A new table", tries=TRIES, tell=tell))
                removed.objects = [f"{each.type} {each.identity}" for each in gone]
    await report("dropping the control tables")
    for dsn in dict.fromkeys((settings.target, settings.source)):
        async with connection(dsn, "abort") as opened:
            if await installed(opened):
                await _own_locks(drop_control(opened, tell))
    return removed


async def _own_locks(work: Awaitable[T]) -> T:
    """What it waits for is told while it waits; then it is the operator's turn."""
    try:
        return await work
    except LockedOutError as error:
        raise CheckError(
            error.problem, "Wait until that has ended, or end it, and run the same command again."
        ) from error


async def _refuse_dependents(settings: Settings, migration: Migration, tell: Report) -> None:
    """Rehearse the drop. Raises CheckError when something of somebody else's is in the way."""
    async with connection(settings.source, "abort") as source:
        if await installed(source) and settings.source != settings.target:
            await refuse_control_dependents(source)
    async with connection(settings.target, "abort") as target:
        if not await installed(target):
            return

        async def rehearse() -> list[tuple[Made, str]]:
            async with target.transaction(force_rollback=True):
                _, left = await drop_created(target)
                await refuse_control_dependents(target)
                return left

        left = await _own_locks(patiently(target, rehearse, what="A new table", tries=TRIES, tell=tell))
    stays = [(each, why) for each, why in left if each.type != "schema"]
    if stays:
        each, why = stays[0]
        raise CheckError(
            f"The {each.type} {each.identity} of the new schema {migration.new} cannot be dropped: {why}.",
            "Drop what depends on it, or move it away; nothing has changed.",
        )


# ---- both


async def _remove_streams(settings: Settings, removed: Removed, report: Report) -> None:
    await report("dropping the slots and publications")
    for direction in DIRECTIONS:
        ends = Ends.of(settings, direction)
        async with connection(ends.source_dsn, "clean up") as source:
            slot = await read_slot(source, ends.slot)
            if slot is not None and slot.here and await drop_slot(source, ends.slot):
                removed.slots.append(ends.slot)
            await drop_publication(source, ends.publication)
        if slot is None or slot.here:  # else the name is another migration's, and the origin too
            async with connection(ends.target_dsn, "clean up") as target:
                await drop_origin(target, origin_of(ends.slot))


async def _remove_guards(settings: Settings, removed: Removed, report: Report) -> None:
    for dsn in dict.fromkeys((settings.source, settings.target)):
        async with connection(dsn, "clean up") as opened, connection(dsn, "clean up watch") as observer:
            await _give_back(opened, report, observer)
            for table in await guarded_tables(opened):
                await report(f"taking the guard off {table}")
                await _remove_guard(opened, table, report, observer)
                removed.guards.append(str(table))


async def _give_back(opened: Connection, report: Report, observer: Connection) -> None:
    """Nothing is closed any more, and no trigger rests."""
    if not await installed(opened):
        return

    async def in_one() -> None:
        async with opened.transaction():
            await limit_lock(opened, LOCK_SECONDS)
            await forget_closed(opened)
            await give_back(opened)

    problem = "The triggers that were switched off cannot be switched on: a table is always in use."
    await _in_short_turns(in_one, [], problem, report, observer)


async def _remove_guard(opened: Connection, table: Name, report: Report, observer: Connection) -> None:
    problem = f"The guard of {table} cannot be taken off: the table is always in use."
    work = partial(drop_guard, opened, table, LOCK_SECONDS, observer)
    await _in_short_turns(work, [table], problem, report, observer)


async def _in_short_turns(
    work: Callable[[], Awaitable[None]], tables: Sequence[Name], problem: str, report: Report, observer: Connection
) -> None:
    """Whoever waits for the lock holds up everybody behind it."""

    async def tell(why: str) -> None:
        await report(f"waiting for a lock: {why}")

    try:
        await in_turns(work, observer, tables, tries=TRIES, tell=tell)
    except RetryableError as error:
        raise CheckError(
            f"{problem} {error.problem}",
            "Wait until that has ended, or end it, and run the same command again.",
        ) from error
