"""The rounds: full passes over every source, and in between the keys that the stream has touched since."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from replicator.derive import TargetRow
from replicator.log import get_logger
from replicator.lsn import LSN, ZERO
from replicator.plan import Source
from replicator.postgres.connect import Connection
from replicator.postgres.context import Context
from replicator.postgres.seen import SeenKeys
from replicator.postgres.snapshots import read_point
from replicator.postgres.source import estimate_rows, next_bound, read_keys, read_range
from replicator.tables import Key, Row, Table
from replicator.verify.carried import carried
from replicator.verify.comparison import Comparison, Divergence, WaitApplied
from replicator.verify.given_up import GivenUp
from replicator.verify.result import PassResult

log = get_logger("verify")

KEYS_AT_ONCE = 5_000
RECHECKS = 20


class Verifier:
    """One pipeline's verification. All its methods are for one task at a time: ``lock`` sees to that."""

    def __init__(
        self,
        context: Context,
        wait_applied: WaitApplied,
        on_rows: Callable[[str, int], None] = lambda _target, _rows: None,
    ) -> None:
        self.context = context
        self.lock = asyncio.Lock()
        self.divergences: dict[tuple[str, str, Key], Divergence] = {}
        self.clean_at: datetime | None = None
        self.passes = 0
        self.done, self.total = 0, 0
        self.running = False
        self._clean_since = -1
        self._wait_applied = wait_applied
        self._on_rows = on_rows
        self._comparison = Comparison(context, wait_applied)
        self._given_up = GivenUp(context)

    async def open(self) -> None:
        """Connect anew; from the first time on, every touched key is kept until it has been compared."""
        await self._comparison.close()
        await self._comparison.open()
        await self._given_up.load(self._comparison.reader)
        self.context.touches.start_keeping()

    def read_through(self, connection: Connection | None) -> None:
        """Read the source on another connection, which gives text; with None, on its own again."""
        self._comparison.read_through(connection)

    async def close(self) -> None:
        """Give the connections back. What waits to be compared stays."""
        await self._comparison.close()

    @property
    def clean(self) -> bool:
        """A full pass was clean, all that changed since has been compared or is remembered, and nothing diverges."""
        return (
            self.clean_at is not None
            and not self.divergences
            and not self.context.unseen
            and not self.context.touches.lost_count_since(self._clean_since)
        )

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
        started, since = datetime.now(UTC), self.context.touches.now
        plan = self.context.plan
        sources = list(plan.sources.values())
        seen = SeenKeys(self._comparison.target, plan.targets)
        await seen.begin()
        self.total = sum([await estimate_rows(self._comparison.reader, each) for each in sources])
        rows = dict.fromkeys((table.called for table in plan.targets), 0)
        found: list[Divergence] = []
        last_read = ZERO
        for source in sources:
            suspects, read_at = await self._compare_source(source, seen, rows, pause)
            last_read = max(last_read, read_at)
            found += await self._confirm(source, suspects)
        await self._wait_applied(last_read)
        for table in plan.targets:
            found += await self._extra(table, seen)
            found += await self._shared(table, seen)
        found = await self._given_up.without(found)
        self._keep(found)
        self.passes += 1
        if not found:
            self.clean_at, self._clean_since = datetime.now(UTC), since
        else:
            log.error("divergence", direction=self.context.direction, rows=len(found))
        return PassResult(started_at=started, finished_at=datetime.now(UTC), rows=rows, divergences=found)

    async def _compare_source(
        self, source: Source, seen: SeenKeys, rows: dict[str, int], pause: float
    ) -> tuple[set[Key], LSN]:
        suspects: set[Key] = set()
        lower: Key | None = None
        while True:
            began = asyncio.get_running_loop().time()
            async with read_point(self._comparison.reader, self.context.visibility) as read_at:
                upper = await next_bound(self._comparison.reader, source, lower, self.context.chunk_rows)
                chunk = await read_range(self._comparison.reader, source, lower, upper)
            suspects |= await self._compare_chunk(source, dict(chunk), seen, rows)
            self.done += len(chunk)
            if upper is None:
                return suspects, read_at
            lower = upper
            await asyncio.sleep(pause * (asyncio.get_running_loop().time() - began))

    async def _compare_chunk(
        self, source: Source, chunk: dict[Key, Row], seen: SeenKeys, rows: dict[str, int]
    ) -> set[Key]:
        derived = await self._comparison.derive(source, dict(chunk))
        for table in self.context.plan.targets:
            given = derived.rows.get(table.name, [])
            await seen.add(table, ((row.key, row.transform, row.source_key) for row in given))
            await seen.add(table, derived.excused.get(table.name, []))
            rows[table.called] += len(given)
            if given:
                self._on_rows(table.called, len(given))
        differing = await self._comparison.compare(source, derived)
        return {each.source_key for each in differing if each.source_key is not None}

    async def _confirm(self, source: Source, suspects: set[Key]) -> list[Divergence]:
        """Look again, until each key has stood still for the length of one look."""
        found: list[Divergence] = []
        open_keys = suspects
        for _ in range(RECHECKS):
            if not open_keys:
                break
            moved: set[Key] = set()
            listed = list(open_keys)
            for start in range(0, len(listed), KEYS_AT_ONCE):
                divergences, again = await self._comparison.recheck(source, listed[start : start + KEYS_AT_ONCE])
                found += divergences
                moved |= again
            open_keys = moved
        return found  # what never stood still is among the touched keys, and compared at the latest in the cutover

    async def _extra(self, table: Table, seen: SeenKeys) -> list[Divergence]:
        keys = await seen.extra(table)
        if keys and self.context.opposite is not None:
            keys = await carried(self.context.opposite, self.context.target_dsn, table, keys)
        return [Divergence(target=table.called, kind="extra", key=key, source=None, source_key=None) for key in keys]

    async def _shared(self, table: Table, seen: SeenKeys) -> list[Divergence]:
        found = []
        sources = {each.name: self.context.plan.sources[each.source] for each in self.context.plan.transforms}
        for each in await seen.shared(table):
            owners = []
            for transform, source_key in each.owners:
                rows = await self._rows_of(sources[transform], source_key, table)
                if any(row.key == each.key and row.transform == transform for row in rows):
                    owners.append((transform, source_key))
            if len(owners) > 1:
                names = " and ".join(f"{transform} for {list(key)}" for transform, key in owners)
                found.append(
                    Divergence(
                        target=table.called, kind="different", key=each.key, source=sources[owners[0][0]].name,
                        source_key=owners[0][1], note=f"two source rows give this row: {names}",
                    )
                )  # fmt: skip
        return found

    async def _rows_of(self, source: Source, key: Key, table: Table) -> list[TargetRow]:
        async with read_point(self._comparison.reader, self.context.visibility):
            found = await read_keys(self._comparison.reader, source, [key])
        derived = await self._comparison.derive(source, dict(found))
        return derived.rows.get(table.name, [])

    # ---- the keys touched since

    async def settle(self) -> None:
        """Compare what the stream has touched, the oldest first; and look again at what diverged."""
        async with self.lock:
            for source in self.context.plan.sources.values():
                await self._settle_source(source)

    async def _settle_source(self, source: Source) -> None:
        touches = self.context.touches
        everything = touches.unsettled_all(source.name)
        if everything and await self._settle_everything(source, everything):
            touches.settle_all(source.name, everything)
        touched = touches.unsettled(source.name, KEYS_AT_ONCE)
        keys = {key for key, _ in touched} | self._diverging(source)
        if not keys:
            return
        found, moved = await self._comparison.recheck(source, keys)
        self._replace(source, keys - moved, await self._given_up.without(found))
        touches.settle(source.name, [(key, at) for key, at in touched if key not in moved])

    async def _settle_everything(self, source: Source, at: int) -> bool:
        """After a TRUNCATE, or a change that every row hangs on: all rows of the source, while it stands still."""
        lower: Key | None = None
        while True:
            async with read_point(self._comparison.reader, self.context.visibility):
                upper = await next_bound(self._comparison.reader, source, lower, KEYS_AT_ONCE)
                chunk = await read_range(self._comparison.reader, source, lower, upper)
            keys = {key for key, _ in chunk}
            found, moved = await self._comparison.recheck(source, keys) if keys else ([], set())
            if moved or self.context.touches.unsettled_all(source.name) != at:
                return False
            self._replace(source, keys, await self._given_up.without(found))
            if upper is None:
                return True
            lower = upper

    async def final_check(self) -> list[Divergence]:
        """In the cutover, drained, with the writers held: all that has changed since it was last compared."""
        async with self.lock:
            for source in self.context.plan.sources.values():
                keys = {key for key, _ in self.context.touches.unsettled(source.name)} | self._diverging(source)
                if self.context.touches.unsettled_all(source.name):
                    async with read_point(self._comparison.reader, self.context.visibility):
                        keys |= {key for key, _ in await read_range(self._comparison.reader, source, None, None)}
                found = await self._comparison.settled(source, keys) if keys else []
                self._replace(source, keys, await self._given_up.without(found))
            return list(self.divergences.values())

    def _diverging(self, source: Source) -> set[Key]:
        found = self.divergences.values()
        return {each.source_key for each in found if each.source == source.name and each.source_key is not None}

    def _replace(self, source: Source, compared: set[Key], found: list[Divergence]) -> None:
        self.divergences = {
            place: each
            for place, each in self.divergences.items()
            if each.source != source.name or each.source_key not in compared
        }
        self.divergences.update({(each.target, each.kind, each.key): each for each in found})

    def _keep(self, found: list[Divergence]) -> None:
        self.divergences = {(each.target, each.kind, each.key): each for each in found}


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
