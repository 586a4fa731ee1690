"""From a batch, with what it had to read again, to its effects: the transforms run."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from replicator.apply.dates import Dates
from replicator.apply.effects import Effects
from replicator.apply.key_changes import KeyChanges
from replicator.apply.net_changes import NetChanges, TableState
from replicator.core.tables import Key, Row
from replicator.mapping.plan import PlannedTransform, Source
from replicator.postgres.control.key_map import remembered
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.derived import computed_keys, derive_all
from replicator.postgres.session.connect import Connection


class Deriver:
    """Reads the memory on the writer's connection."""

    def __init__(self, context: Context, target: Connection) -> None:
        self._context = context
        self._connection = target
        self._dates: Dates | None = None

    async def effects(
        self, net: NetChanges, skip: set[tuple[str, Key]], dates: Dates | None, moves: KeyChanges
    ) -> Effects:
        """What a batch comes to.

        :param skip: transforms and source keys that are left out.
        :param dates: while both schemas take writes: of what has no date, only the memory is kept.
        """
        self._dates = dates
        effects = Effects(skipped=skip, moves=dict(moves.by_source))
        for name, state in net.tables.items():
            if name in net.dirty_all:
                effects.cleared += [each for each in self._context.plan.sources[name].transforms if not each.remembers]
            else:
                again = net.rows.get(name, {})
                await self._table_changed(effects, self._context.plan.sources[name], state, skip, again)
        for name, rows in net.rows.items():
            await self._rows_changed(effects, self._context.plan.sources[name], rows, skip)
        return effects

    async def _table_changed(
        self,
        effects: Effects,
        source: Source,
        state: TableState,
        skip: set[tuple[str, Key]],
        again: Mapping[Key, Row | None],
    ) -> None:
        rows = state.rows
        effects.moves[source.name] = state.moves
        if state.truncated:
            gone = self._refused(source)
            for transform in source.transforms:
                if transform.remembers:
                    gone.update(dict.fromkeys(await self._remembered(transform, None)))
                else:
                    effects.cleared.append(transform)
            # What was read again is derived after this. Were it taken for gone here, its memory would be forgotten:
            # what it gives then is remembered already, and would not be noted anew.
            gone = {key: row for key, row in gone.items() if key not in again}
            rows = gone | dict.fromkeys(state.copies) | rows
        await self._rows_changed(effects, source, rows, skip, state.copies)

    async def _rows_changed(
        self,
        effects: Effects,
        source: Source,
        rows: dict[Key, Row | None],
        skip: set[tuple[str, Key]],
        copies: Mapping[Key, Sequence[Row]] = MappingProxyType({}),
    ) -> None:
        effects.rows.setdefault(source.name, {}).update(rows)
        for transform in source.transforms if rows else ():
            # In shadow, what a row produces is remembered: its deletion, later, must find it (I8). guard: LEARNING
            if self._context.shadow and not transform.remembers:
                continue
            produced = await self._remembered(transform, rows) if transform.remembers else None
            wanted = {key: row for key, row in rows.items() if (transform.name, key) not in skip}
            for key, given in (
                await derive_all(self._connection, transform, source, wanted, self._context.given)
            ).items():
                known = None if produced is None else produced.get(key, set())
                if self._dates is None:
                    effects.row_changed(transform, key, given, known)
                elif self._dates.of(source.name, key) is not None:
                    there = set() if known is None else await self._may_be_there(transform, source, key, copies)
                    effects.row_changed(transform, key, given, known, there)
                elif known is not None:
                    effects.copied(transform, key, given, known)

    async def _may_be_there(
        self, transform: PlannedTransform, source: Source, key: Key, copies: Mapping[Key, Sequence[Row]]
    ) -> set[Key]:
        """While both sides write, target rows may be there for a key that this pipeline does not remember yet.

        What the opposite pipeline copied from them came by in the same batch; a computed key is known anyhow.
        """
        found: set[Key] = set()
        for row in copies.get(key, ()):
            given = await derive_all(self._connection, transform, source, {key: row}, self._context.given)
            found |= {each.key for each in given[key].rows}
        if transform.key is not None and len(self._context.plan.writers_of(transform.target.name)) == 1:
            found.update((await computed_keys(self._connection, transform, source, [key])).values())
        return found

    def _refused(self, source: Source) -> dict[Key, Row | None]:
        """The keys in quarantine, as rows that are gone."""
        return dict.fromkeys(self._context.quarantine.keys_of([each.name for each in source.transforms]))

    async def _remembered(self, transform: PlannedTransform, keys: Iterable[Key] | None) -> dict[Key, set[Key]]:
        return await remembered(self._connection, self._context.direction, transform.name, keys)
