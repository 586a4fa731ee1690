"""Where every old table and column goes, how keys are found, and what the cutover will do: the migration explained."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from replicator.core.tables import Key, Row, Table, key_of
from replicator.errors import DatabaseError
from replicator.mapping.derive import UnreadableRow
from replicator.mapping.plan import Plan, PlannedTransform, Source, queries_of
from replicator.migration import Direction, Migration
from replicator.postgres.control.undisturbed import undisturbed
from replicator.postgres.rows.derived import derive_all
from replicator.postgres.rows.given import GivenColumns
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.trying.rehearsal import read_query, read_sample, rehearsal
from replicator.preflight.consequences import Consequences
from replicator.preflight.traced import TracedRow
from replicator.runbook.foreseeing import foresee
from replicator.runbook.rehearsed_plan import rehearsed_plan
from replicator.runbook.round_trip import plan_back
from replicator.settings import Settings

ROWS = 200
"""Of each source: what its transforms read and write is seen in these."""

TableFate = Literal["transformed", "read", "retired", "left"]
ColumnFate = Literal["read", "retired", "unread", "unknown"]


@dataclass(kw_only=True)
class OldColumn:
    """One column of an old table.

    :param fate: ``read``: by the transforms and queries in ``by``; ``unread``: by none, as far as it was seen;
        ``unknown``: the table has no rows to see it in.
    :param to: by new table, the column that a copy carries it to.
    """

    name: str
    type: str
    fate: ColumnFate = "unread"
    by: list[str] = field(default_factory=list)
    to: dict[str, str] = field(default_factory=dict)
    because: str = ""


@dataclass(kw_only=True)
class OldTable:
    """One old table. ``fate``: ``read`` is by queries alone; ``left``: it stays as it is. ``into``: new tables."""

    name: str
    fate: TableFate
    into: list[str] = field(default_factory=list)
    because: str = ""
    columns: list[OldColumn] = field(default_factory=list)
    """Empty for one that is left or retired."""


@dataclass(kw_only=True)
class Step:
    """One transform.

    :param key: how its target's key is found: ``computed`` from the source key, or ``remembered`` in the key map.
    :param reads: the columns of its source that it reads, ``writes`` those of its target, as far as was seen.
    """

    name: str
    direction: Direction
    source: str
    into: str
    key: Literal["computed", "remembered"]
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    tried: int = 0
    """Rows in which that was seen."""


@dataclass(kw_only=True)
class Reading:
    """One query. ``depends_on``: by table, which of its rows are derived again when a row of that table changes."""

    name: str
    direction: Direction
    key: list[str]
    tables: dict[str, list[str]] = field(default_factory=dict)
    """The columns that it reads, by table."""
    depends_on: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Explanation:
    """All of it."""

    migration: str
    old: str
    new: str
    way_back: bool
    tables: list[OldTable] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    queries: list[Reading] = field(default_factory=list)
    consequences: Consequences | None = None
    notes: list[str] = field(default_factory=list)


async def explain(settings: Settings, migration: Migration) -> Explanation:
    """Find out from the catalogues, and from the first rows of each source. Changes nothing.

    :raises MigrationError, NotReadyError: as ``rehearsed_plan``.
    """
    work = partial(_explain, settings, migration)
    return await undisturbed((settings.source, settings.target), work)


async def _explain(settings: Settings, migration: Migration) -> Explanation:
    found = Explanation(
        migration=migration.name, old=migration.old, new=migration.new, way_back=bool(migration.of("reverse"))
    )
    async with connection(settings.target, "explain") as target, rehearsal(target):
        plan = await rehearsed_plan(settings, migration, target, [])
        back = await plan_back(settings, migration, target) if found.way_back else None
        async with connection(settings.source, "explain read", text=True) as reader:
            found.steps = [step async for step in _steps(plan, reader, target)]
        async with connection(settings.source, "explain queries") as source:
            found.queries = [each async for each in _queries(plan, source)]
            if back is not None:
                found.steps += [_planned(back, each) for each in back.transforms]
                found.queries += [each async for each in _queries(back, target)]
        found.tables = list(_tables(plan, found.steps, found.queries))
        found.consequences = await foresee(settings, target, plan, back, found.notes)
    return found


# ---- transforms


def _planned(plan: Plan, transform: PlannedTransform) -> Step:
    return Step(
        name=transform.name,
        direction=plan.direction,
        source=transform.source,
        into=transform.target.declared,
        key="remembered" if transform.key is None else "computed",
    )


async def _steps(plan: Plan, reader: Connection, target: Connection) -> AsyncIterator[Step]:
    """Each transform, with what it reads and writes of the first rows of its source."""
    given = GivenColumns("forward", None)
    for source in plan.sources.values():
        rows = await _sample(reader, source)
        for transform in source.transforms:
            step, read = _planned(plan, transform), set(source.key if transform.key else ())
            traced = {key: row if isinstance(row, UnreadableRow) else TracedRow(row, read) for key, row in rows.items()}
            written: set[str] = set()
            for each in (await derive_all(target, transform, source, traced, given)).values():
                for row in each.rows:
                    written.update(row.columns)
            step.reads = [each.name for each in source.columns if each.name in read]
            step.writes = [each.name for each in transform.target.columns if each.name in written]
            step.tried = len(rows)
            yield step


async def _sample(reader: Connection, source: Source) -> dict[Key, Row]:
    """Some rows; none of a source that cannot be read, which ``replicator check`` says."""
    try:
        rows = await read_sample(reader, source, ROWS)
    except DatabaseError:
        return {}
    return {
        key_of(row, source.key, source.by_name): row
        for row in rows
        if all(row[name] is not None for name in source.key)
    }


# ---- queries


async def _queries(plan: Plan, asking: Connection) -> AsyncIterator[Reading]:
    names = {table.name: table.declared for table in plan.source_tables.values()}
    for name, text in queries_of(plan.migration, plan.direction).items():
        async with _undone(asking) as source:
            reads = await read_query(source, text)
        found = Reading(name=name, direction=plan.direction, key=list(plan.sources[name].key))
        for table, columns in reads.columns.items():
            known = names.get(table)
            every = plan.source_tables[known].by_name if known is not None else ()
            found.tables[known or str(table)] = sorted(every if columns is None else columns)
        for table_name, dependencies in plan.dependencies.items():
            for each in dependencies:
                if each.source == name:
                    found.depends_on[table_name] = _dependency(each.columns, each.lookup)
        yield found


@asynccontextmanager
async def _undone(asking: Connection) -> AsyncIterator[Connection]:
    """A transaction in which a view may be made; within one, a part of it."""
    async with asking.transaction(force_rollback=True):
        yield asking


def _dependency(columns: Sequence[str] | None, lookup: str | None) -> str:
    if lookup is not None:
        return "the rows that its lookup finds"
    return "all rows" if columns is None else f"the row whose key is its {', '.join(columns)}"


# ---- old tables


def _tables(plan: Plan, steps: Iterable[Step], queries: Iterable[Reading]) -> Iterable[OldTable]:
    migration = plan.migration
    forward = [each for each in steps if each.direction == "forward"]
    reading = [each for each in queries if each.direction == "forward"]
    readers = _readers(forward, reading)
    for name, table in sorted(plan.source_tables.items()):
        into = [each.into for each in forward if each.source == name]
        through = {each.name for each in reading if name in each.tables}
        into += [each.into for each in forward if each.source in through]
        if name in migration.retired:
            yield OldTable(name=name, fate="retired", because=migration.retired[name])
        elif name not in plan.watched:
            yield OldTable(name=name, fate="left")
        else:
            direct = plan.table_source(name) is not None
            found = OldTable(name=name, fate="transformed" if direct else "read", into=list(dict.fromkeys(into)))
            found.columns = list(_columns(plan, table, forward, readers))
            yield found


def _readers(steps: Iterable[Step], queries: Iterable[Reading]) -> Mapping[tuple[str, str], list[str]]:
    """By table and column, who reads it."""
    found: dict[tuple[str, str], list[str]] = {}
    for step in steps:
        for column in step.reads:
            found.setdefault((step.source, column), []).append(step.name)
    for query in queries:
        for table, columns in query.tables.items():
            for column in columns:
                found.setdefault((table, column), []).append(query.name)
    return found


def _columns(
    plan: Plan, table: Table, steps: Sequence[Step], readers: Mapping[tuple[str, str], list[str]]
) -> Iterable[OldColumn]:
    name = table.declared
    retired = plan.migration.retired_columns.get(name, {})
    tried = [each.tried for each in steps if each.source == name]
    for column in table.columns:
        by = readers.get((name, column.name), [])
        fate: ColumnFate = "read" if by else "unknown" if tried and not any(tried) else "unread"
        because = retired.get(column.name, "")
        copies = {each.into: each.new_name(column.name) for each in plan.migration.copies if each.source == name}
        yield OldColumn(
            name=column.name,
            type=column.type,
            fate="retired" if because else fate,
            by=by,
            to={into: new for into, new in copies.items() if new is not None},
            because=because,
        )
