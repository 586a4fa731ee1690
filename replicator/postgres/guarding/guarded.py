"""What is guarded, and whether a guard has been switched."""

from collections.abc import Iterable, Sequence

from replicator.core.tables import Name
from replicator.postgres.control.trigger_names import GUARD, GUARD_ROWS
from replicator.postgres.locking.trees import TREE, oids_by_name
from replicator.postgres.session.connect import Connection, translated


async def guard_versions(connection: Connection, oids: Sequence[int]) -> dict[int, str]:
    """Of the guards on these tables and all below, by the triggers' oids: another one after each switch."""
    query = f"{TREE} SELECT t.oid::int8, t.xmin::text FROM tree JOIN pg_trigger t ON t.tgrelid = tree.oid "
    with translated():
        cursor = await connection.execute(
            f"{query} WHERE t.tgname = ANY (%(names)s)".encode(), {"oids": list(oids), "names": [GUARD, GUARD_ROWS]}
        )
        return {int(row[0]): str(row[1]) for row in await cursor.fetchall()}


async def not_noted(connection: Connection, tables: Iterable[Name]) -> list[Name]:
    """Those of these tables that are there, are no partition, and are not noted as closed."""
    oids = await oids_by_name(connection, tables)
    with translated():
        cursor = await connection.execute(
            "SELECT c.oid::int8 FROM pg_class c WHERE c.oid = ANY (%s::oid[]) AND NOT c.relispartition "
            "AND c.oid NOT IN (SELECT relation FROM _replicator.closed)",
            (list(oids.values()),),
        )
        missing = {int(row[0]) for row in await cursor.fetchall()}
    return [name for name, oid in oids.items() if oid in missing]
