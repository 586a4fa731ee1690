"""Who else gives a row that a batch would delete: it stays, and is written as that one gives it.

A key may pass from one source row to another in any order: who takes it may come first. So a row goes with the last of
those that gave it; each of the others leaves it to them, and these are read again.
"""

from collections.abc import Iterable
from contextlib import aclosing
from itertools import islice

from replicator.apply.dates import Dates
from replicator.apply.effects import Effects
from replicator.apply.net_changes import NetChanges
from replicator.core.lsn import ZERO
from replicator.core.tables import Key, Name
from replicator.mapping.plan import PlannedTransform
from replicator.postgres.control.key_map import Giver, givers
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.groups import key_groups
from replicator.postgres.rows.siblings import may_have_siblings, siblings
from replicator.postgres.rows.streaming import GROUP_BYTES
from replicator.postgres.session.connect import Connection
from replicator.postgres.wire.snapshots import read_point

KEYS_AT_ONCE = 5_000
"""How many deletions are asked about together."""
READ_AT_ONCE = 1_000
"""How many heirs are read into the batch that leaves rows to them; the others follow in batches of their own."""

Dirty = dict[str, set[Key]]
"""Source keys by source."""


class Heirs:
    """Those of one transaction."""

    def __init__(self, context: Context, target: Connection) -> None:
        """``target`` is the writer's connection, on which the memory is read."""
        self._context = context
        self._target = target
        self._sources = {each.name: each.source for each in context.plan.transforms}
        self._lone = [
            each for each in context.plan.transforms if may_have_siblings(each, context.plan.sources[each.source])
        ]
        self.owed: Dirty = {}
        """Those that are still to be read, and written, before the transaction ends."""

    def begin(self) -> None:
        """A transaction begins."""
        self.owed = {}

    def take(self) -> Dirty:
        """What is owed, to be written now."""
        owed, self.owed = self.owed, {}
        return owed

    async def inherit(self, effects: Effects, net: NetChanges, dates: Dates | None, reader: Connection | None) -> Dirty:
        """Take out of the effects each deletion of a row that something else gives, which is not to be forgotten.

        Gives those whose rows are neither in the batch nor owed. One that is in the batch and gives the row all the
        same has failed: it is in quarantine, and what it gave stays as it is.

        :param dates: while both schemas take writes: the heirs get the date of what leaves the row to them.
        :param reader: None while the source cannot be asked: what must be asked of it comes up again, for it is owed.
        """
        found: Dirty = {}
        forgotten = {(name, *pair) for name, pairs in effects.forgotten.items() for pair in pairs}
        for table in self._context.plan.targets:
            writers = [each.name for each in self._context.plan.writers_of(table.name) if each.remembers]
            keys = iter(effects.deletes_of(table.name) if writers else [])
            while part := list(islice(keys, KEYS_AT_ONCE)):
                for key, heirs in (await self._givers(writers, part, forgotten)).items():
                    self._leave(effects, table.name, key, heirs, dates)
                    self._note(found, heirs, net)
        for transform in self._lone:
            await self._inherit_computed(found, transform, effects, net, dates, reader)
        return found

    async def _inherit_computed(
        self,
        found: Dirty,
        transform: PlannedTransform,
        effects: Effects,
        net: NetChanges,
        dates: Dates | None,
        reader: Connection | None,
    ) -> None:
        """Where ``key=`` leaves out a part of the source's key: nothing is remembered, but the source can be asked."""
        name, source = transform.target.name, self._context.plan.sources[transform.source]
        going = {effects.deletes[name][key][1]: key for key in effects.deletes_of(name)}
        if not going:
            return
        if reader is None:
            for source_key, key in going.items():
                del effects.deletes[name][key]
                self._note(found, {(transform.name, source_key)}, None)
            return
        async with read_point(reader, self._context.visibility):
            others = await siblings(reader, source, transform, going)
        for source_key, keys in others.items():
            heirs = {(transform.name, key) for key in keys}
            left = {heir for heir in heirs if not net.holds(source.name, heir[1])} | (heirs & effects.left_out)
            if left:
                self._leave(effects, name, going[source_key], left, dates)
                self._note(found, left, net)

    def _leave(self, effects: Effects, target: Name, key: Key, heirs: Iterable[Giver], dates: Dates | None) -> None:
        transform, source_key = effects.deletes[target].pop(key)
        if dates is not None:
            for name, heir in heirs:
                dates.note(self._sources[name], heir, dates.of(transform.source, source_key))

    def _note(self, found: Dirty, heirs: Iterable[Giver], net: NetChanges | None) -> None:
        for name, heir in heirs:
            source = self._sources[name]
            if heir not in self.owed.get(source, ()) and not (net is not None and net.holds(source, heir)):
                found.setdefault(source, set()).add(heir)

    def owe(self, heirs: Dirty) -> None:
        """Note what is to be read later: while a part of a batch is read, the connection is busy."""
        for source, keys in heirs.items():
            self.owed.setdefault(source, set()).update(keys)

    async def read_into(self, net: NetChanges, heirs: Dirty, reader: Connection) -> None:
        """Read heirs into the batch, so that they are written with what leaves rows to them; owe those too many for it.

        What they hold may be unique, or be referred to: it has to change together.
        """
        size = 0
        async with read_point(reader, self._context.visibility) as read_at:
            net.read_at = max(net.read_at or ZERO, read_at)
            for name, keys in heirs.items():
                wanted = list(keys) if size < GROUP_BYTES else []
                self.owe({name: set(wanted[READ_AT_ONCE:]) if wanted else keys})
                source = self._context.plan.sources[name]
                async with aclosing(key_groups(reader, source, wanted[:READ_AT_ONCE])) as groups:
                    async for rows, bytes_read in groups:
                        if size < GROUP_BYTES:
                            net.rows.setdefault(name, {}).update(rows)
                        else:
                            self.owe({name: set(rows)})
                        size += bytes_read

    async def _givers(
        self, writers: list[str], keys: Iterable[Key], forgotten: set[tuple[str, Key, Key]]
    ) -> dict[Key, set[Giver]]:
        known = await givers(self._target, self._context.direction, writers, keys)
        left = {key: {each for each in found if (*each, key) not in forgotten} for key, found in known.items()}
        return {key: found for key, found in left.items() if found}
