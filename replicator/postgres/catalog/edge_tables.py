"""Which tables a move touches for the sake of foreign keys, and which keys are to be looked at after it."""

from collections.abc import Iterable, Sequence
from typing import Final

from replicator.core.tables import Name
from replicator.postgres.catalog.edges import name_of, read_edges, stored_edges
from replicator.postgres.locking.locks import lockable
from replicator.postgres.session.connect import Connection, translated

NOTE_UNPROVED: Final = """
    INSERT INTO _replicator.edges SELECT c.conrelid, c.conname, 'unvalidated', '{}' FROM pg_constraint c
    WHERE c.contype = 'f' AND c.conparentid = 0 AND NOT c.convalidated AND c.conrelid = ANY (%(oids)s::oid[])
    ON CONFLICT DO NOTHING
"""


async def edge_tables(connection: Connection, closing: Sequence[int], *, back: bool) -> list[Name]:
    """The tables whose keys a move changes, as far as this role may lock them.

    :param back: it gives back the keys that a cutover has set aside.
    """
    edges = await read_edges(connection, closing)
    names = [name for each in edges for name in (each.child_name, each.parent_name)]
    for each in await stored_edges(connection) if back else ():
        names += [name for oid in (each.child, each.parent) if (name := await name_of(connection, oid)) is not None]
    may = await lockable(connection) if names else set()
    return [name for name in dict.fromkeys(names) if name in may]


async def note_unproved(connection: Connection, opening: Iterable[int]) -> None:
    """Have the keys of these tables looked at that statements of the author's have made without looking at rows."""
    with translated():
        await connection.execute(NOTE_UNPROVED.encode(), {"oids": list(opening)})
