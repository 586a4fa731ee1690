"""What of a migration does not fit the tables that there are: said before anything is done, all at once."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from replicator.core.equality import mismatch
from replicator.core.tables import Column, Table
from replicator.mapping.carrying import copy_misfits, with_key
from replicator.migration import ALL, Direction, Lookup, Migration, Query


def misfits(
    migration: Migration,
    direction: Direction,
    schemas: tuple[str, str],
    source_tables: Mapping[str, Table],
    target_tables: Mapping[str, Table],
    query_columns: Mapping[str, Sequence[Column]],
) -> Iterable[str]:
    """A sentence for each thing that does not fit.

    :param schemas: the source's and the target's.
    """
    source_schema, target_schema = schemas
    if not migration.of(direction) and (direction == "forward" or migration.way_back):
        unless = " (without a way back: Migration(..., way_back=False))" if direction == "reverse" else ""
        yield f"the migration {migration.name} has no {direction} transform{unless}"
    queries: dict[str, Query] = {}
    for each in (with_key(each, source_tables) for each in migration.of(direction)):
        where = f"transform {each.name}"
        if each.into not in target_tables:
            yield f"{where}: there is no target table {target_schema}.{each.into}"
        elif not target_tables[each.into].key:
            yield f"{where}: the target table {target_schema}.{each.into} has no primary key"
        else:
            table = target_tables[each.into]
            yield from _key_problems(f"{where}: the key of {table.name}", table.key, table.by_name)
        if isinstance(each.source, Query):
            yield from _query_problems(where, each.source, source_schema, source_tables, query_columns)
            if queries.setdefault(each.source.name, each.source) != each.source:
                yield f"{where}: another transform reads a different query named {each.source.name}"
        elif each.source not in source_tables:
            yield f"{where}: there is no source table {source_schema}.{each.source}"
        elif not source_tables[each.source].key:
            yield f"{where}: the source table {source_schema}.{each.source} has no primary key"
        else:
            table = source_tables[each.source]
            yield from _key_problems(f"{where}: the key of {table.name}", table.key, table.by_name)
    yield from copy_misfits(migration, direction, source_tables, target_tables)


def _key_problems(whose: str, key: Iterable[str], columns: Mapping[str, Column]) -> Iterable[str]:
    """A key is found by its text: in memory, in quarantine, among what changes. Equal values must have one."""
    for name in key:
        column = columns.get(name)
        if column is not None and column.form.problem:
            yield (
                f"{whose} has the column {name} of type {column.type}, and {column.form.problem}; give it another type "
                "or collation, or another key"
            )


def _query_problems(
    where: str,
    query: Query,
    source_schema: str,
    source_tables: Mapping[str, Table],
    query_columns: Mapping[str, Sequence[Column]],
) -> Iterable[str]:
    columns = {column.name: column for column in query_columns.get(query.name, ())}
    yield from _key_problems(f"{where}: the key of the query {query.name}", query.key, columns)
    if not query.key:
        yield f"{where}: the query {query.name} has no key"
    if not query.depends_on:
        yield f"{where}: the query {query.name} says nothing in depends_on"
    if query.name in source_tables:
        yield f"{where}: the query {query.name} has the name of a table; name its file otherwise"
    for name in query.key:
        if name not in columns:
            yield f"{where}: the query {query.name} returns no column {name}, which its key names"
    for table, rule in query.depends_on.items():
        if table not in source_tables:
            yield f"{where}: depends_on names {source_schema}.{table}, which does not exist"
        elif rule is not ALL and not isinstance(rule, Lookup):
            yield from _column_rule_problems(where, query, source_tables[table], tuple(rule), columns)


def _column_rule_problems(
    where: str, query: Query, table: Table, columns: tuple[str, ...], result: Mapping[str, Column]
) -> Iterable[str]:
    if len(columns) != len(query.key):
        yield f"{where}: depends_on[{table.declared!r}] names {len(columns)} columns, the key has {len(query.key)}"
    for name, key in zip_longest(columns, query.key):
        if name is None:
            continue
        if name not in table.by_name:
            yield f"{where}: depends_on names the column {table.name}.{name}, which does not exist"
        elif name not in table.identity_columns:
            yield (
                f"{where}: depends_on names {table.name}.{name}, which the log does not carry for a deleted row; "
                f"use ALL, or ALTER TABLE {table.name} REPLICA IDENTITY FULL"
            )
        elif (
            key in result
            and not result[key].form.problem
            and (why := mismatch(table.by_name[name].form, result[key].form))
        ):
            yield (
                f"{where}: depends_on names {table.name}.{name} of type {table.by_name[name].type}, which leads to no "
                f"{key} of the query {query.name} for certain: {why}; let the query return its key in that column's "
                "type, or use a Lookup that casts"
            )


def _mismatch(table: Table, name: str, key: Column) -> str:
    return mismatch(table.by_name[name].form, key.form)
