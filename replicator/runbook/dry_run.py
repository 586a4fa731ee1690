"""Every row through every transform into temporary copies of the new tables; nothing of it stays."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

from replicator.core.retyped import retyped
from replicator.core.tables import Key, Row, Table
from replicator.errors import RowError, TransformError
from replicator.mapping.derive import TargetRow, UnreadableRow
from replicator.mapping.plan import Plan, PlannedTransform, Source, queries_of
from replicator.migration import Migration
from replicator.postgres.control.undisturbed import undisturbed
from replicator.postgres.rows.derived import derive_all
from replicator.postgres.rows.given import GivenColumns
from replicator.postgres.rows.groups import range_groups
from replicator.postgres.rows.listing import estimate_rows
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.trying.keyless import keyless, keyless_rows
from replicator.postgres.trying.rehearsal import read_query, rehearsal
from replicator.postgres.trying.scratch import Conflict, Scratch, exclusion_constraints
from replicator.preflight.consequences import Consequences
from replicator.preflight.traced import TracedRow
from replicator.runbook.foreseeing import foresee
from replicator.runbook.rehearsed_plan import rehearsed_plan, snapshot
from replicator.runbook.round_trip import MOST, WayBack, bring_back, plan_back
from replicator.settings import Settings

TRACED = 20_000
"""Rows of each source in which it is noted what is read: it costs time."""
EXAMPLES = 5
MOST_REFUSED = 1_000
"""Rows of one transform that Postgres refuses before the rest of them is left out."""

Progress = Callable[[str, int, int], None]
"""Is told what is done, how many rows, and of about how many."""


@dataclass(kw_only=True)
class Tried:
    """What came of one transform."""

    transform: str
    source: str
    target: str
    rows: int = 0
    without_row: int = 0
    """Source rows that give no row."""
    derived: int = 0
    refused: int = 0
    """Source rows at which it raises, or whose rows Postgres refuses."""
    gave_up: bool = False
    """Too many were refused: not all rows were tried."""
    seconds: float = 0.0
    """In the transform alone."""
    examples: list[tuple[Key, str]] = field(default_factory=list)

    def refuse(self, key: Key, error: str) -> None:
        """Count a row, and keep the first few."""
        self.refused += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((key, error))


@dataclass(kw_only=True)
class DryRun:
    """All that was found."""

    sample: int | None
    transforms: list[Tried] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    unread: dict[str, list[str]] = field(default_factory=dict)
    """The columns that no transform has read, by source."""
    keyless: dict[str, str] = field(default_factory=dict)
    """What is wrong with queries that give rows without a key, by their name."""
    retyped: list[str] = field(default_factory=list)
    """Columns of tables that both schemas have, which show otherwise afterwards."""
    way_back: WayBack = field(default_factory=WayBack)
    """What the reverse transforms would make of the old rows."""
    consequences: Consequences | None = None
    """Of a cutover, with the team's own statements."""
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    rows_expected: int = 0
    """In all sources; estimated for a sample."""
    seconds: float = 0.0
    """To read, derive and write them."""

    @property
    def ok(self) -> bool:
        """Nothing would fail."""
        return not self.conflicts and not self.keyless and not any(each.refused for each in self.transforms)

    @property
    def comes_back(self) -> bool:
        """What the reverse transforms give for the new rows is what the old ones were, as far as they were tried."""
        return all(each.same for each in self.way_back.tables)

    @property
    def backfill_seconds(self) -> float | None:
        """An estimate, at the speed of this run; None when there was no row."""
        return self.seconds * self.rows_expected / self.rows if self.rows else None


async def dry_run(settings: Settings, migration: Migration, sample: int | None, progress: Progress) -> DryRun:
    """Try all rows, or the first ``sample`` of each source by key.

    :raises MigrationError: a statement of sql/new is wrong.
    """
    work = partial(_dry_run, settings, migration, sample, progress)
    return await undisturbed((settings.source, settings.target), work)


async def _dry_run(settings: Settings, migration: Migration, sample: int | None, progress: Progress) -> DryRun:
    result = DryRun(sample=sample)
    async with connection(settings.target, "dry run") as target, rehearsal(target):
        plan = await rehearsed_plan(settings, migration, target, result.notes)
        back = await plan_back(settings, migration, target) if migration.of("reverse") else None
        result.retyped = retyped(plan.source_tables, {each.declared: each for each in plan.targets})
        async with snapshot(settings.source) as reader:
            scratch = Scratch(target, plan.targets)
            await scratch.create()
            estimates = [await estimate_rows(reader, each) for each in plan.sources.values()]
            result.rows_expected = sum(estimates)
            total = sum(min(each, sample) for each in estimates) if sample else result.rows_expected
            began = perf_counter()
            carried: dict[str, set[Key] | None] = {}
            for source in plan.sources.values():
                trial = _Trial(result, source, scratch)
                await trial.run(reader, lambda rows: progress("rows", rows, total))
                if source.table is not None:
                    carried[source.table.declared] = trial.carried if len(trial.carried) < MOST else None
            result.seconds = perf_counter() - began
            await _leave_out_what_queries_read(settings, migration, plan, result)
            if sample is None:
                result.rows_expected = result.rows
            progress("comparing keys", result.rows, result.rows)
            await _conflicts(result, plan, scratch, target)
            progress("the way back", result.rows, result.rows)
            result.way_back = await bring_back(settings, migration, target, reader, scratch, carried)
        # At last: statements lock what the application uses.
        result.consequences = await foresee(settings, target, plan, back, result.notes)
    return result


async def _leave_out_what_queries_read(settings: Settings, migration: Migration, plan: Plan, result: DryRun) -> None:
    """A column that no transform of its table reads may well be read through a query."""
    async with connection(settings.source, "dry run catalogue") as source:
        for query in queries_of(migration, "forward").values():
            async with rehearsal(source):
                reads = await read_query(source, query)
            for name, unread in list(result.unread.items()):
                table = plan.sources[name].table
                if table is not None and table.name in reads.columns:
                    read = reads.columns[table.name]
                    result.unread[name] = [] if read is None else [each for each in unread if each not in read]
    result.unread = {name: unread for name, unread in result.unread.items() if unread}


# ---- the rows


class _Trial:
    """One source."""

    def __init__(self, result: DryRun, source: Source, scratch: Scratch) -> None:
        self._result = result
        self._source = source
        self._scratch = scratch
        self.carried: set[Key] = set()
        """The keys that give rows, the first ``MOST`` of them."""
        self._given = GivenColumns("forward", None)
        self._read: set[str] = set()
        self._tables: dict[str, Table] = {each.name: each.target for each in source.transforms}
        self._tried = {
            each.name: Tried(transform=each.name, source=source.name, target=each.target.declared)
            for each in source.transforms
        }
        result.transforms += self._tried.values()

    async def run(self, reader: Connection, progress: Callable[[int], None]) -> None:
        """Through all its transforms."""
        done = 0
        if missing := await keyless_rows(reader, self._source):
            self._result.keyless[self._source.name] = f"{keyless(self._source)}. There are {missing}."
        async for rows, _, _ in range_groups(reader, self._source, None, None, self._result.sample):
            for transform in self._source.transforms:
                await self._through(transform, rows, traced=done < TRACED)
            done += len(rows)
            self._result.rows += len(rows)
            progress(self._result.rows)
        if any(each.key is not None for each in self._source.transforms):
            self._read.update(self._source.key)
        unread = [each.name for each in self._source.columns if each.name not in self._read]
        if done and unread:
            self._result.unread[self._source.name] = unread

    async def _through(self, transform: PlannedTransform, rows: list[tuple[Key, Row]], *, traced: bool) -> None:
        tried = self._tried[transform.name]
        derived: list[TargetRow] = []
        began = perf_counter()
        shown = [
            (key, row if not traced or isinstance(row, UnreadableRow) else TracedRow(row, self._read))
            for key, row in rows
        ]
        found = await derive_all(self._scratch.connection, transform, self._source, dict(shown), self._given)
        for key, given in found.items():
            error = given.error or _several(transform, key, given.rows)
            if error is not None:
                tried.refuse(key, str(error))
            else:
                derived += given.rows
                if given.rows and len(self.carried) < MOST:
                    self.carried.add(key)
                tried.without_row += not given.rows
        tried.seconds += perf_counter() - began
        tried.rows += len(rows)
        tried.derived += len(derived)
        refused: dict[Key, RowError] = {}
        for row, problem in await self._load(tried, self._tables[transform.name], derived):
            refused.setdefault(row.source_key, problem)
        for key, problem in refused.items():
            tried.refuse(key, str(problem))

    async def _load(self, tried: Tried, table: Table, rows: list[TargetRow]) -> list[tuple[TargetRow, RowError]]:
        """Copy in all rows but those that Postgres refuses; gives these."""
        if not rows or tried.refused > MOST_REFUSED:
            tried.gave_up = tried.gave_up or bool(rows)
            return []
        error = await self._scratch.load(table, rows)
        if error is None:
            return []
        if len(rows) == 1:
            return [(rows[0], error)]
        middle = len(rows) // 2
        return [*await self._load(tried, table, rows[:middle]), *await self._load(tried, table, rows[middle:])]


def _several(transform: PlannedTransform, key: Key, rows: list[TargetRow]) -> TransformError | None:
    if len(rows) <= 1 or transform.key is None or transform.remembers:
        return None
    return TransformError(
        f"The transform {transform.name} has a key= and returned {len(rows)} rows for {list(key)}.",
        "Leave key= out where one source row makes several.",
    )


# ---- what must be unique, or have a parent


async def _conflicts(result: DryRun, plan: Plan, scratch: Scratch, target: Connection) -> None:
    await scratch.analyze()
    for table in plan.targets:
        result.conflicts += await scratch.clashes(table)
        for foreign_key in table.foreign_keys:
            if result.sample is None:
                result.conflicts += await scratch.orphans(table, foreign_key)
    if result.sample is not None and any(table.foreign_keys for table in plan.targets):
        result.notes.append("Foreign keys were not tried: in a sample, rows come without those that they refer to.")
    excluding = await exclusion_constraints(target, [table.name for table in plan.targets])
    if excluding:
        result.notes.append(f"Exclusion constraints were not tried: {', '.join(excluding)}.")
