"""Compares what the stream has touched since it was last compared, and nothing else: so a pass need not stand still."""

from replicator.core.dirty_keys import Waiting
from replicator.core.tables import Key
from replicator.errors import NotReadyError
from replicator.mapping.plan import Source
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.listing import read_key_lists
from replicator.postgres.rows.pass_keys import Shared
from replicator.postgres.wire.snapshots import read_point
from replicator.verify.comparison import Comparison
from replicator.verify.discarded_rows import DiscardedRows
from replicator.verify.findings import Findings
from replicator.verify.owners import Owners
from replicator.verify.recheck import Recheck

KEYS_AT_ONCE = 5_000
FINAL_KEYS = 10_000
"""How many source keys may be left to compare while a cutover holds the writers: about a second's work."""


def too_much(left: int) -> NotReadyError:
    """What keeps the writers from being held."""
    return NotReadyError(
        f"{left:,} rows have changed since they were compared; at most {FINAL_KEYS:,} may be compared while the "
        "writers wait. They went on.",
        "Try again when less is written at a time; `replicator status` shows how many keys have changed.",
    )


class Settling:
    """One pipeline's."""

    def __init__(
        self,
        context: Context,
        comparison: Comparison,
        recheck: Recheck,
        findings: Findings,
        given_up: DiscardedRows,
    ) -> None:
        self._context = context
        self._comparison = comparison
        self._recheck = recheck
        self._findings = findings
        self._given_up = given_up
        self._owners = Owners(context, comparison)
        self.rows: dict[str, int] = {}
        """How many rows each source had when all of them were last compared."""

    @property
    def left(self) -> int:
        """How many source keys would have to be compared if the writers were held now."""
        whole = sum(self.rows.get(each, FINAL_KEYS + 1) for each in self.waiting_whole)
        return self._context.dirty_keys.waiting_count() + len(self._findings) + whole

    @property
    def waiting_whole(self) -> list[str]:
        """The sources of which all rows wait to be compared."""
        return [each for each in self._context.plan.sources if self._context.dirty_keys.waits_whole(each)]

    async def touched(self, *, patient: bool) -> None:
        """Compare every key that has been touched until now, the oldest first; and look again at what diverged.

        :param patient: wait until the target has come as far as what differs; else that goes on waiting.
        """
        self._recheck.round_begins()
        if patient and self._findings.collisions:
            await self._collisions()
        for source in self._context.plan.sources.values():
            differing = await self._glance(source)
            if patient:  # a first look takes each change that is on its way for a divergence. guard: LOOKED_AGAIN
                await self._look_again(source, {*differing, *self._findings.keys_of(source.name, KEYS_AT_ONCE)})

    async def final(self) -> None:
        """With the writers held, and all applied: compare what is left. Raises NotReadyError when that is too much."""
        self._recheck.round_begins()
        self._refuse_too_much()
        if self._findings.collisions:
            await self._collisions()
        for source in self._context.plan.sources.values():
            # Those on disk too: a row written wrongly may have been pushed out of memory. guard: FINAL_ON_DISK
            keys = {*self._context.dirty_keys.waiting_keys(source.name), *self._findings.keys_of(source.name)}
            if self._context.dirty_keys.waits_whole(source.name):
                source.listing.failed = ""
                async with read_point(self._comparison.reader, self._context.visibility):
                    async for listed in read_key_lists(self._comparison.reader, source):
                        keys.update(listed)
                if source.listing.failed:
                    raise NotReadyError(
                        f"{source.name} cannot be read as a whole: {source.listing.failed} The writers went on.",
                        "Mend the row; `replicator quarantine list` names it.",
                    )
            if keys:
                found = await self._recheck.settled(source, keys)
                self._findings.collided(self._recheck.collisions)
                self._findings.compared(source.name, keys, await self._given_up.without(found))

    def _refuse_too_much(self) -> None:
        """Every writer waits meanwhile: what takes longer is done before."""
        if self.left > FINAL_KEYS:
            raise too_much(self.left)

    async def _glance(self, source: Source) -> set[Key]:
        """Settle what is equal at once; gives the keys that are not. When these are many, waits for them."""
        touches = self._context.dirty_keys
        until, after, on_disk = touches.now, 0, touches.on_disk(source.name)
        differing: set[Key] = set()
        while on_disk > 0 and (waiting := touches.waiting_on_disk(source.name, KEYS_AT_ONCE)):
            on_disk -= len(waiting.touched)
            differing |= await self._settle_equal(source, waiting)
            differing = await self._not_too_many(source, differing)
        while waiting := touches.waiting(source.name, KEYS_AT_ONCE, after=after, until=until):
            after = max(waiting.touched.values())
            differing |= await self._settle_equal(source, waiting)
            differing = await self._not_too_many(source, differing)
        return differing

    async def _settle_equal(self, source: Source, waiting: Waiting) -> set[Key]:
        differing = await self._recheck.glance(source, waiting.touched)
        self._findings.collided(self._recheck.collisions)
        self._findings.compared(source.name, waiting.touched.keys() - differing, [])
        self._context.dirty_keys.settle(waiting, differing)
        self._context.dirty_keys.touch(source.name, differing - waiting.touched.keys())  # others that these bring up
        return differing

    async def _not_too_many(self, source: Source, differing: set[Key]) -> set[Key]:
        if len(differing) < KEYS_AT_ONCE:
            return differing
        await self._look_again(source, differing)
        return set()

    async def _look_again(self, source: Source, keys: set[Key]) -> None:
        while keys:
            waiting = self._context.dirty_keys.among(source.name, keys)
            answer = await self._recheck.beyond_doubt(source, keys)
            found = await self._given_up.without(answer.divergences)
            self._findings.compared(source.name, keys - answer.moved - answer.left, found)
            self._context.dirty_keys.settle(waiting, answer.moved | answer.left)
            keys = answer.left

    async def _collisions(self) -> None:
        """Whether several source rows still give these rows. What one of them gives is compared, then."""
        before = self._findings.collisions
        found = []
        for table in self._context.plan.targets:
            suspects = [Shared(key=each.key, owners=each.owners) for each in before if each.target == table.declared]
            if suspects:
                found += await self._owners.shared(table, suspects)
        self._findings.collisions_compared(found)
        standing = {(each.target, each.key) for each in found}
        sources = {each.name: each.source for each in self._context.plan.transforms}
        for each in before:
            if (each.target, each.key) not in standing:
                for transform, key in each.owners:
                    self._context.dirty_keys.touch(sources[transform], [key])
