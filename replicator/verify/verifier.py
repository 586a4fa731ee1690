"""The rounds: full passes over every source, and in between and within them the keys that the stream has touched."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime

from replicator.core.lsn import LSN, ZERO
from replicator.core.tables import Key, Row, Table
from replicator.mapping.plan import Source
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.groups import range_groups
from replicator.postgres.rows.listing import estimate_rows, next_bound
from replicator.postgres.rows.pass_keys import PassKeys
from replicator.postgres.session.connect import Connection
from replicator.postgres.trying.keyless import keyless, keyless_rows
from replicator.postgres.wire.snapshots import read_point
from replicator.runtime.log import get_logger
from replicator.verify.carried import carried
from replicator.verify.comparison import Comparison, Derived, Divergence
from replicator.verify.discarded_rows import DiscardedRows
from replicator.verify.findings import Findings
from replicator.verify.owners import Owners
from replicator.verify.recheck import Recheck, WaitApplied
from replicator.verify.result import PassResult
from replicator.verify.settling import FINAL_KEYS, KEYS_AT_ONCE, Settling, too_much
from replicator.verify.standing import Standing, standing

log = get_logger("verify")

SETTLINGS = 10
"""How often what is touched is compared before writers are held, until little is left."""
COLLISION_SECONDS = 10.0
"""How long it takes at least from one look for source rows that give the same row to the next."""
SETTLE_SECONDS = 5.0
"""How long a pass goes on at most before it compares what was touched meanwhile."""


class Verifier:
    """One pipeline's verification. All its methods are for one task at a time: ``lock`` sees to that.

    What a pass leaves open, because it changed meanwhile, is compared with what the stream touches: so a pass is never
    void, however much is written.
    """

    def __init__(
        self,
        context: Context,
        wait_applied: WaitApplied,
        on_rows: Callable[[str, int], None] = lambda _target, _rows: None,
    ) -> None:
        self.context = context
        self.lock = asyncio.Lock()
        self.clean_at: datetime | None = None
        self.passes = 0
        self.done, self.total = 0, 0
        self.running = False
        self._wait_applied = wait_applied
        self._on_rows = on_rows
        self._findings = Findings()
        self._comparison = Comparison(context)
        self._owners = Owners(context, self._comparison)
        self._given_up = DiscardedRows(context)
        self._recheck = Recheck(context, self._comparison, wait_applied)
        self._settling = Settling(context, self._comparison, self._recheck, self._findings, self._given_up)
        self._settled_at = 0.0
        self._collisions_due = 0.0
        self._diverged = False

    async def open(self) -> None:
        """Connect anew; from the first time on, every touched key waits until it has been compared."""
        await self._comparison.close()
        await self._comparison.open()
        await self._given_up.load(self._comparison.reader)
        self.context.dirty_keys.start_keeping()  # before the pass: it has read some keys already. guard: KEEPING

    def read_through(self, connection: Connection | None) -> None:
        """Read the source on another connection, which gives text; with None, on its own again."""
        self._comparison.read_through(connection)

    async def close(self) -> None:
        """Give the connections back. What waits to be compared stays."""
        await self._comparison.close()

    @property
    def divergences(self) -> list[Divergence]:
        """What diverges, as far as it is known."""
        return self._findings.all()

    @property
    def standing(self) -> Standing:
        """Whether ownership may move as far as verification goes, and the sentence that says why."""
        return standing(
            clean_at=self.clean_at,
            divergences=self._findings.all(),
            unseen=self.context.unseen,
            left=self._settling.left,
            whole=self._settling.waiting_whole,
            progress=(self.done, self.total) if self.running else None,
        )

    @property
    def clean(self) -> bool:
        """Every row has been compared, nothing diverges, and little enough has changed since for the final check."""
        return self.standing.ok

    # ---- a full pass

    async def full_pass(self, pause: float = 0.0) -> PassResult:
        """Derive and compare every row.

        :param pause: how long to rest after each chunk, as a multiple of the time that the chunk took.
        """
        async with self.lock:
            self.running, self.done, self.total = True, 0, 0
            try:
                return await self._full_pass(pause)
            finally:
                self.running = False

    async def _full_pass(self, pause: float) -> PassResult:
        started = datetime.now(UTC)
        plan = self.context.plan
        seen = PassKeys(self._comparison.target, plan.targets)
        await seen.begin()
        self.total = sum([await estimate_rows(self._comparison.reader, each) for each in plan.sources.values()])
        rows = dict.fromkeys((table.declared for table in plan.targets), 0)
        last_read = ZERO
        for source in plan.sources.values():
            last_read = max(last_read, await self._sweep(source, seen, rows, pause))
        await self._wait_applied(last_read)
        await self._settling.touched(patient=True)  # what the sweeps left open, too
        await self._search(seen)
        self.passes += 1
        found = self._findings.all()
        self._note_clean()
        if found:
            log.error("divergence", direction=self.context.direction, rows=len(found))
        return PassResult(started_at=started, finished_at=datetime.now(UTC), rows=rows, divergences=found)

    async def _sweep(self, source: Source, seen: PassKeys | None, rows: dict[str, int], pause: float) -> LSN:
        """Compare every row of a source, chunk by chunk; gives when the last chunk was read.

        :param seen: of a full pass: where to note what the rows give; with None, this is none.
        """
        whole = self.context.dirty_keys.waits_whole(source.name)
        source.listing.failed = ""
        lower: Key | None = None
        count = 0
        while True:
            began = asyncio.get_running_loop().time()
            async with read_point(self._comparison.reader, self.context.visibility) as read_at:
                upper = await next_bound(self._comparison.reader, source, lower, self.context.chunk_rows)
                async with aclosing(range_groups(self._comparison.reader, source, lower, upper)) as groups:
                    async for chunk, _, _ in groups:
                        await self._compare_part(source, dict(chunk), seen, rows)
                        count += len(chunk)
            if upper is None:
                break
            lower = upper
            await self._settle_meanwhile()
            await asyncio.sleep(pause * (asyncio.get_running_loop().time() - began))
        self._settling.rows[source.name] = count
        if not source.listing.failed:  # else rows may have been missed
            self.context.dirty_keys.settle_whole(source.name, whole)
        return read_at

    async def _compare_part(
        self, source: Source, part: dict[Key, Row], seen: PassKeys | None, rows: dict[str, int]
    ) -> None:
        derived = await self._comparison.derive(source, part)
        await self._compare_chunk(source, set(part), derived)
        if seen is not None:
            await self._count(derived, seen, rows)
            self.done += len(part)

    async def _compare_chunk(self, source: Source, keys: set[Key], derived: Derived) -> None:
        differing = {each.source_key for each in await self._comparison.compare(source, derived)}
        self._findings.compared(source.name, keys - differing, [])
        # Mostly a change is on its way: they wait, as if touched, and are compared again. guard: DIFFERING_WAITS
        self.context.dirty_keys.touch(source.name, [key for key in differing if key is not None])

    async def _count(self, derived: Derived, seen: PassKeys, rows: dict[str, int]) -> None:
        for table in self.context.plan.targets:
            given = derived.rows.get(table.name, [])
            await seen.add(table, ((row.key, row.transform, row.source_key) for row in given))
            await seen.add(table, derived.excused.get(table.name, []))
            rows[table.declared] += len(given)
            if given:
                self._on_rows(table.declared, len(given))

    async def _settle_meanwhile(self) -> None:
        """So that what is touched during a long pass does not pile up; it must not wait for a stream that lags."""
        now = asyncio.get_running_loop().time()
        if self.context.dirty_keys.waiting_count() >= KEYS_AT_ONCE or now - self._settled_at > SETTLE_SECONDS:
            await self._settling.touched(patient=False)
            self._settled_at = asyncio.get_running_loop().time()

    async def _search(self, seen: PassKeys) -> None:
        """For rows that nothing gives, and for rows that several source rows give."""
        found: list[Divergence] = []
        for table in self.context.plan.targets:
            found += await self._extra(table, seen)
            found += await self._owners.shared(table, await seen.shared(table))
        for source in self.context.plan.sources.values():
            found += self._unlisted(source) or await self._keyless(source)
        self._findings.searched(await self._given_up.without(found))

    async def _keyless(self, source: Source) -> list[Divergence]:
        """Rows of a query that nothing is made of: the target lacks them, whatever the transforms would give."""
        if not await keyless_rows(self._comparison.reader, source, 1):
            return []
        return _of_all_targets(source, keyless(source))

    def _unlisted(self, source: Source) -> list[Divergence]:
        """A query that fails for a row: its other rows were found by way of other tables, which may lack some."""
        if not source.listing.failed:
            return []
        return _of_all_targets(source, f"{source.name} cannot be read as a whole: {source.listing.failed}")

    async def _extra(self, table: Table, seen: PassKeys) -> list[Divergence]:
        keys = await seen.extra(table)
        if keys and self.context.opposite is not None:
            context = self.context
            keys = await carried(self.context.opposite, context.target_dsn, context.source_dsn, table, keys)
        # A key may have passed from a row that was not read yet to one that had been read already.
        keys = await self._owners.nobodys(table, keys) if keys else []
        return [Divergence(target=table.declared, kind="extra", key=key, source=None, source_key=None) for key in keys]

    # ---- the keys touched since

    async def settle(self) -> None:
        """Compare what the stream has touched until now, the oldest first; and look again at what diverged."""
        async with self.lock:
            for name in self._settling.waiting_whole:
                await self._sweep(self.context.plan.sources[name], None, {}, 0.0)
            await self._settling.touched(patient=True)
            await self._look_for_collisions()
            self._note_clean()

    async def _look_for_collisions(self) -> None:
        """Two source rows that come to give one row are equal to it by turns: comparing them tells nothing."""
        began = asyncio.get_running_loop().time()
        if began >= self._collisions_due:
            self._findings.collided(await self._owners.remembered_shared())
            took = asyncio.get_running_loop().time() - began
            self._collisions_due = began + max(COLLISION_SECONDS, 20 * took)

    async def settle_down(self) -> None:
        """Before writers are held: compare until little is left for ``final_check``, however much is written meanwhile.

        :raises NotReadyError: more is touched in the time of a comparison than may be left.
        """
        self._collisions_due = 0.0
        for _ in range(SETTLINGS):
            await self.settle()
            if self._settling.left <= FINAL_KEYS // 2:
                return
        if self._settling.left > FINAL_KEYS:
            raise too_much(self._settling.left)

    async def final_check(self) -> list[Divergence]:
        """In the cutover, drained, with the writers held: all that has changed since it was last compared.

        :raises NotReadyError: more is left than may be compared while writers wait.
        """
        async with self.lock:
            await self._settling.final()  # what has changed since the last comparison, or is still wrong. guard: FINAL
            return self._findings.all()

    def _note_clean(self) -> None:
        """After a pass that found nothing, or once what the last pass has found is found no longer."""
        diverged, self._diverged = self._diverged, bool(self._findings)
        if self.passes and not self._findings and (self.running or diverged or self.clean_at is None):
            self.clean_at = datetime.now(UTC)


def _of_all_targets(source: Source, note: str) -> list[Divergence]:
    """Nobody knows which rows are missing."""
    targets = dict.fromkeys(each.target.declared for each in source.transforms)
    return [
        Divergence(target=each, kind="missing", key=(), source=None, source_key=None, note=note) for each in targets
    ]  # fmt: skip


async def rounds(
    verifier: Verifier,
    full_pass: Callable[[float], Awaitable[PassResult]],
    *,
    between_passes: float,
    between_looks: float,
) -> None:
    """Verify for ever: a full pass, then the touched keys until the next one is due, or rows have changed unseen."""
    while True:
        await full_pass(1.0 if verifier.passes else 0.0)
        due = asyncio.get_running_loop().time() + between_passes
        while asyncio.get_running_loop().time() < due and not verifier.context.unseen:
            await verifier.settle()
            await asyncio.sleep(between_looks)
