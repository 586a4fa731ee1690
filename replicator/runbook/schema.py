"""Builds the new schema: tables with their guards before the backfill, indexes and constraints after it."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from uuid import uuid4

from replicator.core.tables import Table
from replicator.errors import NotReadyError
from replicator.migration import Migration
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.control.control import install, installed_for, read_phase
from replicator.postgres.control.created import note_created, objects_in
from replicator.postgres.control.ownership import all_names, read_ownership
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.ddl.ddl import PARTS, Part, Writer, analyze_tables, apply_part, part_statements
from replicator.postgres.guarding.guards import guard, guard_rest
from replicator.postgres.session.connect import Connection, connection
from replicator.settings import Settings
from replicator.switchover.phases import Phase

LOCK_SECONDS = 5.0


async def build(
    settings: Settings,
    migration: Migration,
    parts: list[Part],
    report: Callable[[str], None] = lambda _: None,
    pipeline: Pipeline | None = None,
) -> list[str]:
    """Run the statements of these parts that have not been run yet; gives what was run, a line each.

    New tables are guarded at once: until the cutover nobody but the replicator writes to them.

    :param pipeline: the one that writes to the tables meanwhile; in the end it knows what was built.
    """
    kept_off = partial(_kept_off, settings, pipeline) if pipeline else nullcontext
    writer = Writer(kept_off, partial(_catch_up, pipeline)) if pipeline else None
    done: list[str] = []

    def told(line: str) -> None:
        done.append(line)
        report(line)

    async with connection(settings.target, "schema") as target:
        await install(target, migration)
        if (await read_places(target)).moved:
            raise NotReadyError(
                "A cutover has renamed the tables: the new ones are there, in the old schema.",
                "See `replicator status`.",
            )
        for part in parts:
            if part == "tables":
                await _make_tables(target, migration, told)
                await guard_new_tables(settings, migration)
            else:
                await apply_part(target, migration, part, told, writer)
                await guard_rest(target, LOCK_SECONDS)
    if pipeline is not None:
        async with pipeline.kept_from_writing():
            pass
    return done


async def _make_tables(target: Connection, migration: Migration, told: Callable[[str], None]) -> None:
    """Note what is made. Of this part only: it takes a moment, in which nobody else makes anything of his own there."""
    before = await objects_in(target, migration.new)
    try:
        await apply_part(target, migration, "tables", told)
    finally:
        if not target.closed:
            await note_created(target, await objects_in(target, migration.new) - before)


@asynccontextmanager
async def _kept_off(settings: Settings, pipeline: Pipeline) -> AsyncIterator[None]:
    """Let the pipeline write nothing meanwhile; a trigger that was made rests before it does so again."""
    async with pipeline.kept_from_writing():
        yield
        async with connection(settings.target, "schema") as target:
            await guard_rest(target, LOCK_SECONDS)


async def _catch_up(pipeline: Pipeline) -> None:
    message = f"built {uuid4()}"
    await pipeline.nudge(message)
    await pipeline.wait_message(message)


async def guard_new_tables(settings: Settings, migration: Migration) -> None:
    """Put the guard on the new tables while the old schema owns the data."""
    async with connection(settings.target, "schema") as target:
        if (await read_ownership(target)).owner == "old":
            tables = await read_tables(target, migration.new)
            targets = {each.into for each in migration.of("forward")}
            named = [table for name, table in tables.items() if name in targets]
            await guard(target, migration, "new", all_names(named))


async def analyze(settings: Settings, tables: Iterable[Table]) -> None:
    """Give the planner statistics of the filled tables: autovacuum may come later than the application."""
    async with connection(settings.target, "schema") as target:
        await analyze_tables(target, [table.name for table in tables])


def statements(migration: Migration, parts: list[Part]) -> list[str]:
    """The statements of these parts, in order."""
    return [statement for part in parts for statement in part_statements(migration, part)]


async def chosen_parts(settings: Settings, migration: Migration, names: list[str]) -> list[Part]:
    """The parts by these names, in order; when none is named, those whose time has come."""
    return [part for part in PARTS if part in names] if names else await _due(settings, migration)


async def _due(settings: Settings, migration: Migration) -> list[Part]:
    """Until the consistent point, rows may be there before their parents, and unique values twice: tables only."""
    async with connection(settings.target, "schema") as target:
        phase = await read_phase(target) if await installed_for(target, migration) else None
    return ["tables"] if phase in (None, Phase.BACKFILL) else list(PARTS)
