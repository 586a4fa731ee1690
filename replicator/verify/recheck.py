"""Looks again at what differs, until the answer is beyond doubt: a change that is on its way is no divergence."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field

from replicator.core.dirty_keys import WindowSpoiled
from replicator.core.lsn import LSN
from replicator.core.tables import Key
from replicator.mapping.plan import Source
from replicator.postgres.control.quarantine import Place
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.siblings import siblings
from replicator.postgres.wire.snapshots import read_point
from replicator.verify.comparison import Comparison, Derived, Divergence
from replicator.verify.owners import Owners

WaitApplied = Callable[[LSN], Awaitable[None]]


@dataclass(kw_only=True)
class Answer:
    """What a comparison of some source keys has come to."""

    divergences: list[Divergence] = field(default_factory=list)
    moved: set[Key] = field(default_factory=set)
    """The source keys that say nothing: they changed meanwhile, and are to be compared again."""
    left: set[Key] = field(default_factory=set)
    """The source keys that were not looked at, for their rows are too wide."""


class Recheck:
    """One pipeline's, on the connections of a comparison."""

    def __init__(self, context: Context, comparison: Comparison, wait_applied: WaitApplied) -> None:
        self._context = context
        self._comparison = comparison
        self._wait_applied = wait_applied
        self._owners = Owners(context, comparison)
        self._searched: set[str] = set()
        """Sources of which every key has been looked at in this round: not twice, it takes long."""
        self.collisions: list[Divergence] = []
        """Rows that two source rows give, as far as this round has come upon them."""

    def round_begins(self) -> None:
        """Each source may be searched once more."""
        self._searched.clear()
        self.collisions.clear()

    async def glance(self, source: Source, keys: Collection[Key]) -> set[Key]:
        """Compare at once; gives the keys that are not equal. What is, is right, however far behind the stream is."""
        found = await self._without_heirs(source, await self._compared(source, keys))
        return {each.source_key for each in found if each.source_key is not None}

    async def beyond_doubt(self, source: Source, keys: Iterable[Key]) -> Answer:
        """Read, wait until the target has come as far, compare, and leave out what has moved.

        Of wide rows, not all are read at once: the others are left over.
        """
        wanted = set(keys)
        with self._context.dirty_keys.window() as window:
            async with (
                read_point(self._comparison.reader, self._context.visibility) as read_at,
                aclosing(self._comparison.parts(source, wanted)) as parts,
            ):
                read, derived = await anext(parts)
            # Before, the target may lack what was read: each change on its way would diverge. guard: READ_APPLIED
            await self._wait_applied(read_at)
            found = await self._comparison.compare(source, derived)
            try:
                touched = self._context.dirty_keys.touched(source.name, window)
            except WindowSpoiled:  # one of these keys may have been touched, and forgotten. guard: LOOK_SPOILED
                return Answer(moved=wanted)
            # The target may have a later version than what was read. guard: WINDOW
            moved = {key for key in read if key in touched}
        answer = Answer(divergences=[each for each in found if each.source_key not in moved], moved=moved)
        answer = await self._without_owners(source, answer)
        if read:
            answer.left = wanted - read
        else:
            answer.moved |= wanted
        return answer

    async def settled(self, source: Source, keys: Collection[Key]) -> list[Divergence]:
        """Compare while nothing moves: in the cutover, drained, with the writers held."""
        found = await self._compared(source, keys)
        lingering = [each for each in found if each.lingers]
        if not lingering:
            return found
        async with read_point(self._comparison.reader, self._context.visibility):
            given = await self._owners.given(source, lingering)
        return [each for each in found if not each.lingers or (each.target, each.key) not in given]

    async def _compared(self, source: Source, keys: Collection[Key]) -> list[Divergence]:
        found: list[Divergence] = []
        async with (
            read_point(self._comparison.reader, self._context.visibility),
            aclosing(self._comparison.parts(source, keys)) as parts,
        ):
            givers: dict[tuple[str, Key], Place] = {}
            others: set[Key] = set()
            async for _, derived in parts:
                found += await self._comparison.compare(source, derived)
                others |= await self._siblings(source, derived)
                self._note_givers(derived, givers)
            others -= set(keys)
            if others:
                async with aclosing(self._comparison.parts(source, others)) as parts_of_others:
                    async for _, derived in parts_of_others:
                        found += [each for each in await self._comparison.compare(source, derived) if not each.lingers]
                        self._note_givers(derived, givers)
        return found

    async def _siblings(self, source: Source, derived: Derived) -> set[Key]:
        found: set[Key] = set()
        for transform in source.transforms:
            keys = [each.source_key for each in derived.rows.get(transform.target.name, [])]
            keys += [key for _, key in derived.absent.get(transform.target.name, [])]
            for others in (await siblings(self._comparison.reader, source, transform, keys)).values():
                found |= others
        return found

    def _note_givers(self, derived: Derived, givers: dict[tuple[str, Key], Place]) -> None:
        """What two rows of one snapshot give, only one of them can be: comparing either may well find it equal."""
        for table in self._context.plan.targets:
            for row in derived.rows.get(table.name, []):
                place = row.transform, row.source_key
                other = givers.setdefault((table.declared, row.key), place)
                if other != place:
                    self.collisions.append(self._owners.collision(table, row.key, (other, place)))

    async def _without_heirs(self, source: Source, found: list[Divergence]) -> list[Divergence]:
        if not any(each.lingers for each in found):
            return found
        left = await self._owners.without_heirs(source, [each for each in found if each.lingers])
        return [*left, *(each for each in found if not each.lingers)]

    async def _without_owners(self, source: Source, answer: Answer) -> Answer:
        """Before a row is called extra: whether another source row gives it, or will have been compared for it."""
        found = await self._without_heirs(source, answer.divergences)
        orphans = [each for each in found if each.lingers]
        kept = [each for each in found if not each.lingers]
        if orphans:
            extra, undecided = await self._search(source, orphans)
            kept += extra
            answer.moved |= undecided
        return Answer(divergences=kept, moved=answer.moved)

    async def _search(self, source: Source, orphans: list[Divergence]) -> tuple[list[Divergence], set[Key]]:
        """Look through the whole source. Gives what is extra, and the source keys that may not be judged yet."""
        keys = {each.source_key for each in orphans if each.source_key is not None}
        if source.name in self._searched:
            return [], keys
        self._searched.add(source.name)
        touches = self._context.dirty_keys
        with touches.window() as window:
            async with read_point(self._comparison.reader, self._context.visibility) as read_at:
                given = await self._owners.given(source, orphans)
            await self._wait_applied(read_at)
            there = await self._owners.present(orphans)
            try:
                touched = touches.touched(source.name, window)
            except WindowSpoiled:
                return [], keys
            if touched.everything:
                return [], keys
            changing_keys = touched.keys()
        changing = await self._owners.places_of(source, changing_keys)
        undecided = {each.source_key for each in orphans if each.source_key and (each.target, each.key) in changing}
        return [
            each
            for each in orphans
            if (each.target, each.key) in there - given - changing and each.source_key not in undecided
        ], undecided
