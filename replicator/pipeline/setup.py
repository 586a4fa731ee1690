"""What a pipeline needs before it can run: its plan, read from the catalogues, its slot, and its decoder."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from replicator.core.tables import Name
from replicator.errors import SlotError
from replicator.follow.decoder import Decoder
from replicator.follow.pgoutput import PgoutputDecoder
from replicator.follow.wal2json import Wal2JsonDecoder
from replicator.mapping.plan import Plan, schemas_of, taking_part
from replicator.migration import Direction, Migration
from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.catalog.fingerprints import as_planned, read_definitions, store_definitions
from replicator.postgres.control.control import Owner
from replicator.postgres.control.owned import noted, taken
from replicator.postgres.control.ownership import all_names
from replicator.postgres.control.progress import Progress, create_progress
from replicator.postgres.session.connect import connection
from replicator.postgres.session.server import choose_plugin
from replicator.postgres.trying.binding import bound_plan
from replicator.postgres.wire.replication import identify_system
from replicator.postgres.wire.slots import create_slot, drop_slot, read_slot, write_publication
from replicator.postgres.wire.snapshots import wait_for_running
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.log import get_logger
from replicator.settings import Settings

log = get_logger("setup")


@dataclass(kw_only=True)
class Ends:
    """The names that belong to one direction."""

    direction: Direction
    source_dsn: str
    target_dsn: str
    slot: str
    publication: str

    @classmethod
    def of(cls, settings: Settings, direction: Direction) -> "Ends":
        """From the settings."""
        old, new = settings.source, settings.target
        source, target = (old, new) if direction == "forward" else (new, old)
        return cls(
            direction=direction,
            source_dsn=source,
            target_dsn=target,
            slot=settings.slot_of(direction),
            publication=settings.publication_of(direction),
        )


async def read_plan(settings: Settings, migration: Migration, direction: Direction) -> Plan:
    """Resolve one direction against the catalogues as they are now. Raises MigrationError."""
    ends = Ends.of(settings, direction)
    source_schema, target_schema = schemas_of(migration, direction)
    async with connection(ends.source_dsn, "catalogue") as source, connection(ends.target_dsn, "catalogue") as target:
        tables = await read_tables(source, source_schema), await read_tables(target, target_schema)
        return await bound_plan(migration, direction, source, target, tables)


async def all_tables(settings: Settings, migration: Migration) -> dict[Owner, list[Name]]:
    """The tables that take part (``taking_part``), with their partitions."""
    found = taking_part(
        await read_plan(settings, migration, "forward"), await read_plan(settings, migration, "reverse")
    )
    return {side: all_names(tables) for side, tables in found.items()}


async def set_up_slot(
    settings: Settings,
    plan: Plan,
    *,
    start_marker: str | None = None,
    reconciled: bool = True,
    tell: Callable[[str], Awaitable[None]] | None = None,
) -> Progress:
    """Create publication, slot and progress, in this order; a slot of ours without progress is made anew.

    :param start_marker: the message that carries the moment from which the stream counts.
    :param reconciled: whether the target's rows are what the transforms give, at that moment.
    :param tell: is told whose transactions are waited for; the log says it otherwise.
    """
    ends = Ends.of(settings, plan.direction)
    async with connection(ends.source_dsn, "set up") as source, connection(ends.target_dsn, "set up") as target:
        plugin = await choose_plugin(source, settings.plugin)
        found = await read_slot(source, ends.slot)
        if found is not None and not found.here:
            raise SlotError(
                f"The slot {ends.slot} belongs to the database {found.database}.",
                "Set REPLICATOR_SLOT to another name.",
            )
        if found is not None and ends.slot not in await noted(source, "slot"):
            drop = f"`SELECT pg_drop_replication_slot('{ends.slot}');`"
            raise taken("slot", ends.slot, "REPLICATOR_SLOT", drop)
        if plugin == "pgoutput":
            await write_publication(source, ends.publication, plan.watched.values())
        if found is not None:
            await drop_slot(source, ends.slot)
        await reach(Failpoint.PUBLISHED)
        log.info("creating the slot; this waits for the transactions that run now", slot=ends.slot, plugin=plugin)
        created = await create_slot(source, ends.slot, plugin)
        await reach(Failpoint.SLOT_MADE)
        # One may be in the log before the slot's position and not be visible yet: in neither the stream nor a read.
        await wait_for_running(source, tell or _log_wait)  # guard: SIGHT_AT_SLOT; mutation: slot-waits-for-running
        identity = await identify_system(ends.source_dsn)
        progress = Progress(
            slot=ends.slot,
            plugin=plugin,
            system_id=identity.system_id,
            timeline=identity.timeline,
            created=created,
            applied=created,
            start_marker=start_marker,
            reconciled=reconciled,
        )
        await create_progress(target, plan.direction, progress)
        named = ends.publication if plugin == "pgoutput" else ""
        definitions = await read_definitions(source, plan.source_schema, plan.watched, named)
        await store_definitions(target, plan.direction, as_planned(plan, definitions))
        await reach(Failpoint.PROGRESS_MADE)
        return progress


async def _log_wait(text: str) -> None:
    log.warning("waiting", what=text)


def make_decoder(plan: Plan, plugin: str, publication: str) -> Decoder:
    """The decoder for a plugin, told which tables matter."""
    if plugin == "pgoutput":
        return PgoutputDecoder([publication])
    schemas = {table.name.schema for table in plan.watched.values()} or {plan.source_schema}
    tables: dict[tuple[str, str | None], None] = {(schema, None): None for schema in schemas}
    if plan.renamed and not any(table.partitioned for table in plan.watched.values()):
        # Both sides' tables are in one schema: what we write to the others need not come.
        tables = {(table.name.schema, table.name.table): None for table in plan.watched.values()}
    for table in plan.watched.values():  # partitions may live in any schema
        tables.update({(leaf.schema, leaf.table): None for leaf in table.leaves if leaf.schema not in schemas})
    return Wal2JsonDecoder(tables)
