"""Which source rows give a target row: asked before a row is called extra, and before two are said to give one row."""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import aclosing

from replicator.core.pace import Pace
from replicator.core.tables import Key, Table
from replicator.mapping.plan import PlannedTransform, Source
from replicator.postgres.control.key_map import givers, shared_targets
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.derived import computed_keys
from replicator.postgres.rows.listing import read_key_lists
from replicator.postgres.rows.pass_keys import Shared
from replicator.postgres.wire.snapshots import read_point
from replicator.verify.comparison import Comparison, Divergence

Place = tuple[str, Key]
"""A target, as the migration calls it, and the key of a row of it."""

KEYS_AT_ONCE = 1_000
SHARED_AT_ONCE = 500
LOOKS = 3
"""How often a row is looked at that a transform gave which remembers: its owner may be about to change."""


class Owners:
    """One pipeline's, on the connections of a comparison."""

    def __init__(self, context: Context, comparison: Comparison) -> None:
        self._context = context
        self._comparison = comparison

    # ---- rows whose key follows from the source's

    async def without_heirs(self, source: Source, lingering: Sequence[Divergence]) -> list[Divergence]:
        """Those for which no source key waits that was touched later and has the same target key.

        Where there is one, the row is compared with what that one gives: so only the last of all the source keys that
        had this target key one after the other must be asked about, and it is.
        """
        wanted = {(each.target, each.key) for each in lingering}
        youngest: dict[Place, Key] = {}
        async for place, key in self._places(source, self._context.dirty_keys.youngest_first(source.name)):
            if place in wanted:
                youngest.setdefault(place, key)
        return [
            each for each in lingering if youngest.get((each.target, each.key), each.source_key) == each.source_key
        ]  # fmt: skip

    async def places_of(self, source: Source, keys: Sequence[Key]) -> set[Place]:
        """The target rows whose keys follow from these source keys."""
        return {place async for place, _ in self._places(source, keys)}

    async def given(self, source: Source, lingering: Iterable[Divergence]) -> set[Place]:
        """Which of these rows some row of the source gives; looks at every key. Inside a read point of the caller's."""
        return await self._given(source, {(each.target, each.key) for each in lingering})

    async def present(self, lingering: Iterable[Divergence]) -> set[Place]:
        """Which of these rows the target holds now."""
        wanted: dict[str, set[Key]] = {}
        for each in lingering:
            wanted.setdefault(each.target, set()).add(each.key)
        return {
            (table.declared, key)
            for table in self._context.plan.targets
            if table.declared in wanted
            for key in await self._comparison.present(table, wanted[table.declared])
        }

    async def _given(self, source: Source, wanted: Collection[Place]) -> set[Place]:
        candidates: set[Key] = set()
        async for keys in read_key_lists(self._comparison.reader, source):
            candidates.update([key async for place, key in self._places(source, keys) if place in wanted])
        found = set()
        async with aclosing(self._comparison.parts(source, candidates)) as parts:
            async for _, derived in parts:
                for table in self._context.plan.targets:
                    found |= {(table.declared, row.key) for row in derived.rows.get(table.name, [])}
                    found |= {(table.declared, key) for key, _, _ in derived.excused.get(table.name, [])}
        return found & set(wanted)

    async def _places(self, source: Source, keys: Sequence[Key]) -> AsyncIterator[tuple[Place, Key]]:
        """Each key, in the order given, with the target rows whose keys follow from it."""
        pace = Pace()
        for start in range(0, len(keys), KEYS_AT_ONCE):
            part = keys[start : start + KEYS_AT_ONCE]
            for transform in source.transforms:
                if not transform.remembers:
                    await pace.step()
                    for key, place in (await computed_keys(self._comparison.target, transform, source, part)).items():
                        yield (transform.target.declared, place), key

    # ---- rows that a full pass has not derived

    async def nobodys(self, table: Table, keys: Collection[Key]) -> list[Key]:
        """Which of these rows of the target no source row gives."""
        left = set(keys)
        for transform in self._context.plan.writers_of(table.name):
            if not left:
                break
            source = self._context.plan.sources[transform.source]
            if transform.remembers:
                left -= await self._remembered(source, transform, left)
            else:
                async with read_point(self._comparison.reader, self._context.visibility):
                    given = await self._given(source, {(table.declared, key) for key in left})
                left -= {key for _, key in given}
        return sorted(left)

    async def _remembered(self, source: Source, transform: PlannedTransform, keys: Collection[Key]) -> set[Key]:
        found: set[Key] = set()
        for _ in range(LOOKS):
            owners = await givers(self._comparison.target, self._context.direction, [transform.name], keys)
            name = transform.target.name
            async with (
                read_point(self._comparison.reader, self._context.visibility),
                aclosing(self._comparison.parts(source, {key for each in owners.values() for _, key in each})) as parts,
            ):
                async for _, derived in parts:
                    found |= {row.key for row in derived.rows.get(name, []) if row.transform == transform.name}
                    found |= {key for key, _, _ in derived.excused.get(name, [])}
            if owners.keys() <= found:
                break
        return found & set(keys)

    # ---- rows that several source rows give

    async def shared(self, table: Table, suspects: Sequence[Shared]) -> list[Divergence]:
        """Which of these rows several source rows give at one and the same time."""
        found = []
        for start in range(0, len(suspects), SHARED_AT_ONCE):
            part = suspects[start : start + SHARED_AT_ONCE]
            giving = await self._giving(table, {owner for each in part for owner in each.owners})
            for each in part:
                owners = tuple(sorted(giving.get(each.key, ())))
                if len(owners) > 1:
                    found.append(self.collision(table, each.key, owners))
        return found

    async def remembered_shared(self) -> list[Divergence]:
        """Of the rows that transforms gave which remember: those that several source rows give now."""
        found = []
        for table in self._context.plan.targets:
            names = [each.name for each in self._context.plan.writers_of(table.name) if each.remembers]
            if names:
                told = await shared_targets(self._comparison.target, self._context.direction, names)
                suspects = [Shared(key=key, owners=tuple(owners)) for key, owners in told.items()]
                found += await self.shared(table, suspects)
        return found

    async def _giving(self, table: Table, owners: Iterable[tuple[str, Key]]) -> dict[Key, set[tuple[str, Key]]]:
        """By target key, which of these give it now: all are read in one snapshot."""
        sources = {each.name: each.source for each in self._context.plan.transforms}
        wanted: dict[str, set[Key]] = {}
        for transform, key in owners:
            wanted.setdefault(sources[transform], set()).add(key)
        giving: dict[Key, set[tuple[str, Key]]] = {}
        async with read_point(self._comparison.reader, self._context.visibility):
            for name, keys in wanted.items():
                async with aclosing(self._comparison.parts(self._context.plan.sources[name], keys)) as parts:
                    async for _, derived in parts:
                        for row in derived.rows.get(table.name, []):
                            giving.setdefault(row.key, set()).add((row.transform, row.source_key))
        return giving

    def collision(self, table: Table, key: Key, owners: tuple[tuple[str, Key], ...]) -> Divergence:
        """That several source rows produce this row."""
        sources = {each.name: each.source for each in self._context.plan.transforms}
        named = " and ".join(f"{sources[name]} {list(source_key)} ({name})" for name, source_key in owners[:3])
        more = f" and {len(owners) - 3} more" if len(owners) > 3 else ""
        return Divergence(
            target=table.declared,
            kind="different",
            key=key,
            source=sources[owners[0][0]],
            source_key=owners[0][1],
            note=f"{len(owners)} source rows produce this row: {named}{more}",
            owners=owners,
        )
