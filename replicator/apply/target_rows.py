"""Rows of the target that a repair keeps aside, counts, or deletes, in an open transaction of the applier's."""

from collections import Counter
from collections.abc import Iterable, Mapping

from replicator.apply.removing import remove
from replicator.apply.work import Work
from replicator.core.tables import Key, Table
from replicator.postgres.rows.versions import lock_rows


async def delete_rows(work: Work, extra: Mapping[str, Iterable[Key]]) -> Counter[str]:
    """Delete target rows that no source row gives, as ``remove`` does; returns how many of each target."""
    return await remove(work.tools.writer, work.tools.context.plan, extra)


async def delete_leftovers(work: Work, target: str, keys: Iterable[Key], why: str) -> int:
    """While both schemas take writes: those that no source row gives; not what the application has written last."""
    table, policy, writer = _target(work, target), work.tools.context.policy, work.tools.writer
    found = await lock_rows(writer.connection, table, writer.stage(table), keys)
    ours = [key for key, each in found.items() if policy.written_by_the_application(each) is None]
    await writer.keep(table, ours, why)
    return await writer.delete(table, ours)


async def keep_rows(work: Work, target: str, keys: Iterable[Key], why: str) -> int:
    """Copy target rows to where they can be found again, before a repair overwrites or deletes them."""
    return await work.tools.writer.keep(_target(work, target), keys, why)


async def rows_up_to(work: Work, target: str, most: int) -> int:
    """How many rows a target has, as this transaction sees it, but not more than ``most``."""
    return await work.tools.writer.rows_up_to(_target(work, target), most)


def _target(work: Work, name: str) -> Table:
    return next(each for each in work.tools.context.plan.targets if each.declared == name)
