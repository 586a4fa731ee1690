"""The tables beside those of a move: their foreign keys, and what ``sql/cutover`` and ``sql/rollback`` do to them."""

from collections.abc import Mapping, Sequence

from replicator.core.tables import Name
from replicator.mapping.plan import Plan, places_of
from replicator.postgres.catalog.edge_tables import edge_tables, note_unproved
from replicator.postgres.catalog.edges import give_edges_back, settle_edges
from replicator.postgres.control.control import Owner
from replicator.postgres.ddl.switching import switch_tables
from replicator.postgres.locking.trees import oids_by_name, oids_of
from replicator.postgres.session.connect import Connection
from replicator.runtime.log import get_logger
from replicator.switchover.phases import Transition

log = get_logger("cutover")


async def tables_beside(
    connection: Connection, plan: Plan, move: Transition, tables: Mapping[Owner, Sequence[Name]], *, together: bool
) -> list[Name]:
    """Other tables that a move locks: for their foreign keys, or in statements of the author's.

    They are locked at once with those that close. Whoever has written to one, and waits for a table that closes, would
    hold up a later lock for good.
    """
    if not together or move.opens_both:
        return []
    found = await edge_tables(connection, await oids_of(connection, tables[move.held]), back=move.owner == "old")
    if move.statements is not None:
        found += await switch_tables(connection, plan.migration, move.statements)
    ours = {*tables["old"], *tables["new"]}
    return [each for each in dict.fromkeys(found) if each not in ours]


async def places_by_oid(connection: Connection, plan: Plan) -> dict[int, int]:
    """By old table, the new one that takes its place; by oids, for they may be about to change their names."""
    if plan.direction == "reverse":
        return {}
    places = places_of(plan)
    oids = await oids_by_name(connection, [*places, *places.values()])
    return {oids[old]: oids[new] for old, new in places.items()}


async def settle_beside(
    holder: Connection,
    move: Transition,
    closing: Sequence[int],
    places: Mapping[int, int],
    seconds: float,
    observer: Connection,
    *,
    together: bool,
) -> None:
    """Let no foreign key stand between a table that is closed and one that the application goes on writing to."""
    if move.opens_both:
        return
    if move.owner == "new":
        await settle_edges(holder, closing, places, seconds, observer, together=together)
        await note_unproved(holder, places.values())
    elif dropped := await give_edges_back(holder, closing, seconds, observer):
        log.warning("foreign keys at the edge of the new tables are dropped: they close", dropped=dropped)
