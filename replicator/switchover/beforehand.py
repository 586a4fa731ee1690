"""What a switchover needs that can be seen before anything is made, stored or held for it."""

from collections.abc import Mapping

from replicator.core.tables import Name
from replicator.errors import NotReadyError
from replicator.migration import Migration
from replicator.pipeline.setup import read_plan
from replicator.postgres.control.control import Owner
from replicator.postgres.control.ownership import same_database
from replicator.postgres.ddl.search_path import switch_search_path
from replicator.postgres.session.connect import connection
from replicator.settings import Settings
from replicator.switchover.bidirectional import OPPOSITE
from replicator.switchover.phases import Transition
from replicator.switchover.rolling import check_rolling


async def see_that_it_may_begin(
    settings: Settings,
    migration: Migration,
    move: Transition,
    tables: Mapping[Owner, list[Name]],
    search_path_of: str | None,
) -> None:
    """Raise CheckError when both schemas cannot take writes though they are to.

    :param search_path_of: a role. Raises NotReadyError when its ``search_path`` cannot be moved.
    """
    if move.opens_both:
        plans = [await read_plan(settings, migration, direction) for direction in OPPOSITE]
        await check_rolling(settings, tables, plans)
    if search_path_of is not None:
        await _see_that_it_moves(settings, migration, search_path_of)


async def _see_that_it_moves(settings: Settings, migration: Migration, role: str) -> None:
    async with (
        connection(settings.source, "search_path") as source,
        connection(settings.target, "search_path") as target,
    ):
        if not await same_database(source, target):
            raise NotReadyError("A search_path cannot lead to another database.", "Leave --set-search-path out.")
        async with source.transaction(force_rollback=True):
            await switch_search_path(source, role, migration.old, migration.new)
