"""Reads again what a batch needs from the source, in parts of bounded size: each is written before the next is read."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from itertools import islice

from replicator.apply.dates import Dates
from replicator.apply.deleting import acting_children
from replicator.apply.net_changes import NetChanges, Parameters
from replicator.core.tables import Key, Row
from replicator.errors import RowError
from replicator.mapping.plan import Dependency, Source
from replicator.postgres.control.key_map import remembered
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.groups import key_groups, range_groups
from replicator.postgres.rows.looking_up import look_up, without_values
from replicator.postgres.rows.streaming import GROUP_BYTES, ROW_BYTES
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.wire.snapshots import read_point
from replicator.runtime.log import get_logger

log = get_logger("apply")

KEYS_HELD = 20_000
"""How many keys that lookups have found wait to be read."""

Group = tuple[str, dict[Key, Row | None], int]
"""Source, rows, and their size in bytes."""


class Reading:
    """Reads the source on one connection, and the memory on the other, which is the writer's."""

    def __init__(self, context: Context, reader: Connection, target: Connection) -> None:
        self._context = context
        self._reader = reader
        self._target = target

    def read_through(self, reader: Connection) -> None:
        """Read the source on this connection from now on."""
        self._reader = reader

    async def parts(self, net: NetChanges, dates: Dates | None = None) -> AsyncGenerator[tuple[NetChanges, bool]]:
        """The batch with what it had to read, mostly in one part; and whether a part is the last.

        All of it is as of one snapshot. The transaction that reads has ended when the last part is given. To be closed
        when it is left early.

        :param dates: while both schemas take writes: keys that lookups find get the date of the change.
        """
        if not net.reads:
            yield net, True
            return
        divisible = self._divisible(net)
        async with (
            read_point(self._reader, self._context.visibility) as read_at,
            aclosing(self._groups(net, dates)) as groups,
        ):
            part, held = replace(net, dirty={}, lookups={}, rows={}, read_at=read_at), 0
            async for name, rows, size in groups:
                if held and held + size > GROUP_BYTES and divisible:
                    yield part, False
                    everything = {name} & net.dirty_all
                    part, held = NetChanges(dirty_all=everything, dates=net.dates, read_at=read_at), 0
                part.rows.setdefault(name, {}).update(rows)
                part.dirty_all |= {name} & net.dirty_all
                held += size
        yield part, True

    def _divisible(self, net: NetChanges) -> bool:
        """A TRUNCATE deletes what the batch does not write; where that acts on children, it must know all of it."""
        plan = self._context.plan
        truncated = [name for name, state in net.tables.items() if state.truncated or name in net.dirty_all]
        targets = [each.target for name in truncated for each in plan.sources[name].transforms]
        return not any(acting_children(plan, target) for target in targets)

    async def _groups(self, net: NetChanges, dates: Dates | None) -> AsyncGenerator[Group]:
        async with aclosing(self._looked_up(net, dates)) as groups:
            async for group in groups:
                yield group
        for name in sorted(net.dirty_all):
            async with aclosing(self._everything(self._context.plan.sources[name])) as groups:
                async for group in groups:
                    yield group
        for name, keys in net.dirty.items():
            if keys and name not in net.dirty_all:
                async with aclosing(self._with_keys(name, keys)) as groups:
                    async for group in groups:
                        yield group

    async def _looked_up(self, net: NetChanges, dates: Dates | None) -> AsyncGenerator[Group]:
        """Run the lookups; their keys are added to the dirty ones, and read when they have become many.

        Where one fails, nobody knows which keys it would have found, and none of them may stay stale: so all of its
        source is read again, in which a row that cannot be read is found.
        """
        if net.lookups:
            await self._execute("SAVEPOINT looking")
        for (dependency, parameters), at in net.lookups.items():
            name = dependency.source
            if name in net.dirty_all and dates is None:
                continue
            try:
                async with aclosing(self._found_by(dependency, parameters, at, net, dates)) as groups:
                    async for group in groups:
                        yield group
            except RowError as error:
                await self._execute("ROLLBACK TO SAVEPOINT looking")
                source = self._context.plan.sources[name]
                await without_values(self._reader, source, dependency, [each for each, _ in parameters])
                log.warning("a lookup fails for a changed row: all of its source is read again",
                            pipeline=self._context.direction, source=name, error=error.problem)  # fmt: skip
                net.dirty_all.add(name)
                if dates is not None:
                    dates.note_all(name, at)

    async def _found_by(
        self,
        dependency: Dependency,
        parameters: Parameters,
        at: datetime | None,
        net: NetChanges,
        dates: Dates | None,
    ) -> AsyncGenerator[Group]:
        name = dependency.source
        source = self._context.plan.sources[name]
        dirty = net.dirty.setdefault(name, set())
        async with aclosing(look_up(self._reader, source, dependency, dict(parameters), KEYS_HELD)) as found:
            async for keys in found:
                dirty |= keys
                if dates is not None:
                    for key in keys:
                        dates.note(name, key, at)
                if len(dirty) > KEYS_HELD and name not in net.dirty_all:
                    async with aclosing(self._with_keys(name, dirty)) as groups:
                        async for group in groups:
                            yield group
                    dirty.clear()

    async def _execute(self, statement: str) -> None:
        with translated():
            await self._reader.execute(statement.encode())

    async def _with_keys(self, name: str, keys: Iterable[Key]) -> AsyncGenerator[Group]:
        async with aclosing(key_groups(self._reader, self._context.plan.sources[name], keys)) as groups:
            async for rows, size in groups:
                yield name, rows, size

    async def _everything(self, source: Source) -> AsyncGenerator[Group]:
        """All rows; and as gone, the keys that have left their trace only in the memory and in the quarantine."""
        gone = self._context.quarantine.keys_of([each.name for each in source.transforms])
        for transform in source.transforms:
            if transform.remembers:
                gone |= (await remembered(self._target, self._context.direction, transform.name, None)).keys()
        async with aclosing(range_groups(self._reader, source, None, None)) as groups:
            async for rows, size, _ in groups:
                gone.difference_update(key for key, _ in rows)
                yield source.name, dict(rows), size
        left = iter(gone)
        while some := list(islice(left, KEYS_HELD)):
            yield source.name, dict.fromkeys(some), len(some) * ROW_BYTES


async def keep_out(context: Context, sources: set[str]) -> None:
    """Let chunks be written while a batch is applied that concerns only these sources, of what it has no part in.

    Not of sources that fill the same targets, nor where foreign keys lead from one target to another: there the two
    transactions could wait for each other.
    """
    plan = context.plan
    if context.policy.both_write or any(table.foreign_keys for table in plan.targets):
        return
    targets = {each.target.name for name in sources for each in plan.sources[name].transforms}
    filling = {each.source for each in plan.transforms if each.target.name in targets}
    await context.rw_lock.narrow(sources | filling)
