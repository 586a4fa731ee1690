"""The check that all partitions can be locked at once."""

from collections.abc import Mapping, Sequence
from typing import Literal

from replicator.core.tables import Name
from replicator.postgres.locking.lock_room import LockRoom, lock_room
from replicator.postgres.session.connect import Connection
from replicator.preflight.finding import Verdict, failed, passed, warned


def locks(subject: LockRoom) -> Verdict:
    """Where the room is used up, statements fail: ours, and the application's."""
    of = f"{subject.tables} tables and partitions with {subject.indexes} indexes"
    room = f"the server has room for {subject.room} locks"
    remedy = f"ALTER SYSTEM SET max_locks_per_transaction = {subject.enough};"
    if 2 * subject.needed <= subject.room:
        return passed(f"{of}; {room}")
    problem = f"{of} are locked at once by a cutover, or by a query that reads all of them; {room}"
    if subject.needed <= subject.room:
        return warned(f"{problem}, the application's among them.", "Better raise that, and restart the server:", remedy)
    return failed(f"{problem}.", "Raise that, and restart the server:", remedy)


async def read_rooms(
    old: Connection,
    new: Connection,
    tables: Mapping[Literal["old", "new"], Sequence[Name]],
    *,
    one_server: bool,
) -> list[tuple[str, LockRoom]]:
    """Of the source's server, and of the target's, if that is another one."""
    rooms = [await lock_room(old, tables["old"]), await lock_room(new, tables["new"])]
    if one_server:
        return [("source", rooms[0].beside(rooms[1]))]
    return [("source", rooms[0]), ("target", rooms[1])]
