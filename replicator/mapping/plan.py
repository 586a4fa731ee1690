"""One direction of a migration, resolved against the catalogues: what is read, written, and depends on what."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from replicator.core.copies import Carrying
from replicator.core.ordering import by_foreign_keys
from replicator.core.selects import Select
from replicator.core.tables import Column, Name, Table
from replicator.errors import MigrationError
from replicator.mapping.carrying import bound, with_key
from replicator.mapping.misfits import misfits
from replicator.migration import ALL, Direction, Function, Lookup, Migration, Query, Transform


@dataclass(frozen=True, kw_only=True)
class PlannedTransform:
    """A transform whose target is known. ``remembers`` when the target key does not follow from the source key."""

    name: str
    source: str
    target: Table
    function: Function
    """Python, or a ``Select`` that only the server can run: ``postgres.rows.derived`` runs either."""
    key: Callable[[Any], Any] | None
    """Python, or a ``SelectedKey``."""
    remembers: bool
    forgotten: tuple[str, ...] = ()
    """Of a copy: columns of its table that have no place in the target, and that nothing says are meant to go."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A table or a query, with the transforms that read it."""

    name: str
    table: Table | None
    """None for a query."""
    query: str | None
    """The SELECT; None for a table."""
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    transforms: tuple[PlannedTransform, ...]
    leads: tuple[tuple[Name, tuple[str, ...]], ...] = ()
    """Of a query: tables that it reads, with the columns that are its key, of the same types."""
    listing: "Listing" = field(default_factory=lambda: Listing(), compare=False)  # noqa: PLW0108  it is defined below

    @cached_property
    def by_name(self) -> Mapping[str, Column]:
        """The columns by name."""
        return {column.name: column for column in self.columns}


@dataclass
class Listing:
    """Whether the keys of a source could be listed from itself."""

    failed: str = ""
    """Why not, when that was tried last. Then they were listed from the tables that lead to it: some may be missing."""


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """How a changed row of a table leads to the keys of a query source; neither columns nor lookup means all keys."""

    source: str
    columns: tuple[str, ...] | None = None
    lookup: str | None = None

    @property
    def everything(self) -> bool:
        """Any change makes every key dirty."""
        return self.columns is None and self.lookup is None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a pipeline works from."""

    migration: Migration
    direction: Direction
    source_schema: str
    target_schema: str
    sources: Mapping[str, Source]
    targets: tuple[Table, ...]
    """Parents before children."""
    watched: Mapping[str, Table]
    """The source-side tables whose changes matter, by name."""
    dependencies: Mapping[str, tuple[Dependency, ...]]
    """By the changed table's name."""
    source_tables: Mapping[str, Table] = field(default_factory=dict)
    """All tables of the source schema."""
    target_tables: Mapping[str, Table] = field(default_factory=dict)
    """All tables of the target schema."""
    renamed: bool = False
    """A cutover has renamed the tables: the new ones are in the old schema."""

    def table_source(self, table: str) -> Source | None:
        """The source that is this table itself, if any transform reads it directly."""
        source = self.sources.get(table)
        return source if source is not None and source.table is not None else None

    @property
    def transforms(self) -> list[PlannedTransform]:
        """All transforms, source by source."""
        return [transform for source in self.sources.values() for transform in source.transforms]

    def reading_as(self, other: "Plan") -> "Plan":
        """This plan, with the sources as the other has them: rows must not change their columns under way."""
        sources = {
            name: replace(source, table=other.sources[name].table, columns=other.sources[name].columns)
            for name, source in self.sources.items()
        }
        return replace(self, sources=sources, watched=other.watched, source_tables=other.source_tables)

    def writers_of(self, target: Name) -> list[PlannedTransform]:
        """The transforms into one target."""
        return [each for each in self.transforms if each.target.name == target]


def taking_part(forward: Plan, reverse: Plan | None) -> dict[Literal["old", "new"], list[Table]]:
    """The tables of either schema that are open to writers only while it owns the data.

    Those that are read, written or retired, and not left: more than one direction's plan knows.
    """
    migration = forward.migration
    retired = [table for name, table in forward.source_tables.items() if name in migration.retired]
    read = [table for name, table in forward.watched.items() if name not in migration.left]
    written, watched = (reverse.targets, reverse.watched.values()) if reverse is not None else ((), ())
    old = {table.name: table for table in (*read, *retired, *written)}
    new = {table.name: table for table in (*forward.targets, *watched)}
    return {"old": list(old.values()), "new": list(new.values())}


def identifying_columns(plan: Plan, table: Table) -> set[str]:
    """What the log must carry of a changed or deleted row's old version: the key, and what queries depend on."""
    needed = set(table.key if plan.table_source(table.declared) else ())
    for dependency in plan.dependencies.get(table.declared, ()):
        needed.update(dependency.columns or ())
    return needed


def schemas_of(migration: Migration, direction: Direction) -> tuple[str, str]:
    """The source's and the target's Postgres schema."""
    return (migration.old, migration.new) if direction == "forward" else (migration.new, migration.old)


def places_of(plan: Plan) -> dict[Name, Name]:
    """By source table, the target that takes its place: the one of its name, or the only one that it is read for."""
    targets = {each.declared: each.name for each in plan.targets}
    read: dict[str, dict[str, Name]] = {}
    for each in plan.migration.of(plan.direction):
        if each.table:
            read.setdefault(each.table, {})[each.into] = targets[each.into]
    found = {}
    for source, into in read.items():
        if source in into or len(into) == 1:
            found[plan.watched[source].name] = into.get(source) or next(iter(into.values()))
    return found


def queries_of(migration: Migration, direction: Direction) -> dict[str, str]:
    """The SELECT of each query source of one direction, by its name."""
    queries = (each.source for each in migration.of(direction) if isinstance(each.source, Query))
    return {query.name: migration.query_text(query) for query in queries}


def resolve(
    migration: Migration,
    direction: Direction,
    source_tables: Mapping[str, Table],
    target_tables: Mapping[str, Table],
    query_columns: Mapping[str, Sequence[Column]],
) -> Plan:
    """Bind one direction of a migration to the tables that exist.

    :param query_columns: the result columns of each query source, by its name (see ``queries_of``).
    :raises MigrationError: naming the transform and the table or column that does not fit; all problems at once.
    """
    source_schema, target_schema = schemas_of(migration, direction)
    schemas = (source_schema, target_schema)
    problems = list(misfits(migration, direction, schemas, source_tables, target_tables, query_columns))
    if problems:
        raise MigrationError("; ".join(problems) + ".", f"Mend the transforms of {migration.name} and start again.")
    declared = [with_key(each, source_tables) for each in migration.of(direction)]
    sources = {
        name: _source(name, [each for each in declared if each.source_name == name], migration, source_tables,
                      target_tables, query_columns, declared)
        for name in dict.fromkeys(each.source_name for each in declared)
    }  # fmt: skip
    targets = {each.into: target_tables[each.into] for each in declared}
    watched = {each.source_name for each in declared if isinstance(each.source, str)}
    for each in declared:
        if isinstance(each.source, Query):
            watched.update(each.source.depends_on)
    return Plan(
        migration=migration,
        direction=direction,
        source_schema=source_schema,
        target_schema=target_schema,
        sources=sources,
        targets=tuple(by_foreign_keys(targets.values())),
        watched={name: source_tables[name] for name in sorted(watched)},
        dependencies=_dependencies(declared),
        source_tables=source_tables,
        target_tables=target_tables,
    )


def _source(
    name: str,
    transforms: list[Transform],
    migration: Migration,
    source_tables: Mapping[str, Table],
    target_tables: Mapping[str, Table],
    query_columns: Mapping[str, Sequence[Column]],
    declared: list[Transform],
) -> Source:
    query = transforms[0].source if isinstance(transforms[0].source, Query) else None
    table = None if query else source_tables[name]
    into = [each.into for each in declared]
    columns = table.columns if table else tuple(query_columns[name])
    planned = tuple(
        # A target that several transforms own cannot be emptied by TRUNCATE; of a query that is read again
        # whole (ALL, or a TRUNCATE), only the memory knows which keys are gone.
        replace(each, remembers=each.key is None or into.count(each.target.declared) > 1 or query is not None)
        for each in (_planned(each, migration, name, columns, source_tables, target_tables) for each in transforms)
    )
    source = Source(
        name=name,
        table=table,
        query=migration.query_text(query) if query else None,
        columns=columns,
        key=table.key if table else tuple(query.key if query else ()),
        transforms=planned,
    )
    return source if query is None else replace(source, leads=tuple(_leads(source, query, source_tables)))


def _planned(
    transform: Transform,
    migration: Migration,
    source: str,
    columns: Iterable[Column],
    source_tables: Mapping[str, Table],
    target_tables: Mapping[str, Table],
) -> PlannedTransform:
    function = transform.function
    if isinstance(function, Select):
        function = replace(function, text=migration.select_text(function))
    made = PlannedTransform(
        name=transform.name,
        source=source,
        target=target_tables[transform.into],
        function=function,
        key=transform.key,
        remembers=True,
    )
    if not isinstance(transform.function, Carrying):
        return made
    found = bound(transform.function, source_tables[transform.table], made.target, [each.name for each in columns])
    key = found.target_key if found.key is not None else None
    return replace(made, function=found.function, key=key, forgotten=found.forgotten)


def _leads(source: Source, query: Query, tables: Mapping[str, Table]) -> Iterator[tuple[Name, tuple[str, ...]]]:
    for name, rule in query.depends_on.items():
        if rule is ALL or isinstance(rule, Lookup):
            continue
        columns = tuple(rule)
        forms = [tables[name].by_name[each].form for each in columns]
        if [each.base for each in forms] == [source.by_name[each].form.base for each in source.key]:
            yield tables[name].name, columns


def _dependencies(declared: list[Transform]) -> dict[str, tuple[Dependency, ...]]:
    found: dict[str, dict[str, Dependency]] = {}
    for each in declared:
        if isinstance(each.source, Query):
            for table, rule in each.source.depends_on.items():
                found.setdefault(table, {})[each.source_name] = _dependency(each.source_name, rule)
    return {table: tuple(by_source.values()) for table, by_source in found.items()}


def _dependency(source: str, rule: object) -> Dependency:
    if rule is ALL:
        return Dependency(source=source)
    if isinstance(rule, Lookup):
        return Dependency(source=source, lookup=rule.sql)
    return Dependency(source=source, columns=tuple(rule))  # type: ignore[arg-type]
