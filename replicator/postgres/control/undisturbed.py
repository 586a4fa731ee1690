"""What reads tables by their names in several steps, while a daemon may move ownership, and rename them, in between."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from replicator.errors import ReplicatorError, RetryableError
from replicator.postgres.session.connect import connection, translated

T = TypeVar("T")
Stand = tuple[tuple[int, int] | None, ...]
"""For each database, the ownership's epoch and how many names have been changed; None where that cannot be read."""

READABLE: Final = """
    SELECT bool_and(c.oid IS NOT NULL AND has_table_privilege(c.oid, 'SELECT'))
    FROM unnest(ARRAY['_replicator.ownership', '_replicator.renames']) AS w (name)
    LEFT JOIN pg_class c ON c.oid = to_regclass(w.name)
    WHERE has_schema_privilege(to_regnamespace('_replicator'), 'USAGE')
"""
STAND: Final = """
    SELECT coalesce(max(epoch), 0), (SELECT count(*) FROM _replicator.renames) FROM _replicator.ownership
"""


async def undisturbed(dsns: Iterable[str], work: Callable[[], Awaitable[T]], *, tries: int = 1) -> T:
    """Do the work, and again when ownership has moved meanwhile: its error then means nothing, nor does its result.

    A cutover may rename the tables between two statements of it. Then a table that was listed is not there any more, or
    what was said of two tables is of two moments.

    :param tries: how often at most.
    :raises RetryableError: it moved during the last try too.
    :raises ReplicatorError: whatever the work raises, when nothing moved.
    """
    places = list(dict.fromkeys(dsns))
    before = await _stand(places)
    for _ in range(tries):
        error: ReplicatorError | None = None
        try:
            found = await work()
        except ReplicatorError as raised:
            error = raised
        now = await _stand(places)
        if not _moved(before, now):
            if error is not None:
                raise error
            return found
        before = now
    raise RetryableError(
        "Ownership of the data moved while the tables were read: what was found holds no longer.", "Run it again."
    )


def _moved(before: Stand, now: Stand) -> bool:
    """As far as both are known: a server that has gone meanwhile says nothing, and the work's own error says more."""
    return any(one is not None and other is not None and one != other for one, other in zip(before, now, strict=True))


async def _stand(dsns: Iterable[str]) -> Stand:
    return tuple([await _stand_of(each) for each in dsns])


async def _stand_of(dsn: str) -> tuple[int, int] | None:
    """None: there are no control tables yet, or the work will say why nothing can be read."""
    try:
        async with connection(dsn, "stand", may_be_read_only=True) as opened:
            with translated():
                cursor = await opened.execute(READABLE)
                if await cursor.fetchone() != (True,):
                    return None
                cursor = await opened.execute(STAND)
                row = await cursor.fetchone()
    except ReplicatorError:
        return None
    return None if row is None else (row[0], row[1])
