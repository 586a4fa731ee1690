"""What a switchover writes in its transaction: guards on, guards off, the ``search_path``, the state row."""

from replicator.core.tables import Name
from replicator.postgres.control.ownership import write_ownership
from replicator.postgres.ddl.search_path import restore_search_path, switch_search_path
from replicator.postgres.guarding.guards import guard, open_to_writers
from replicator.postgres.locking.locks import WRITERS, lock_more
from replicator.runtime.failpoints import Failpoint, reach
from replicator.switchover.final_checks import see_that_nothing_was_unseen
from replicator.switchover.request import Attempt


async def transfer(attempt: Attempt, new_schema: str) -> None:
    """Close what is held, open what takes its place if it is in this database, and write who owns the data.

    :param new_schema: where the new tables will be found: errors of whoever still writes to the old ones name it.
    :raises NotReadyError: as ``open_tables``.
    :raises LockedOutError: likewise.
    """
    request, holder = attempt.request, attempt.holder
    move, migration = request.move, request.plan.migration
    attempt.at("guards")
    # In the state row's transaction: else both sides take writes for a moment, or neither. guard: GUARDS_WITH_ROW
    await guard(holder, migration, move.held, request.tables[move.held], new_schema)
    if attempt.together:
        await open_tables(attempt, request.tables[move.owner])
    await reach(Failpoint.CUTOVER_GUARDED)
    attempt.at("search_path")
    if move.owner == "old":
        await restore_search_path(holder)
    elif request.search_path_of is not None:
        await switch_search_path(holder, request.search_path_of, migration.old, migration.new)
    attempt.at("state row")
    await write_ownership(holder, move.owner, attempt.epoch, start_marker(attempt))


async def open_tables(attempt: Attempt, tables: list[Name]) -> None:
    """Switch the guards off.

    :raises LockedOutError: who is in the way of that keeps the writers waiting.
    :raises NotReadyError: somebody has written there until now.
    """
    attempt.at("lock on the tables that open")
    await lock_more(attempt.holder, tables, WRITERS, attempt.lock_seconds, attempt.observer)
    # Only now can nobody write there any more: what was looked at before the lock may have changed since.
    # guard: CLOSED_UNDER_LOCK
    await see_that_nothing_was_unseen(attempt.request, attempt.holder)
    await open_to_writers(attempt.holder, tables)


def start_marker(attempt: Attempt) -> str | None:
    """The message that the opposite pipeline waits for: in this transaction, if that is of the database it reads."""
    return attempt.request.opposite.progress.start_marker if attempt.together else None
