"""Columns that come while the migration runs: whether it accounts for them, as it does for those of the first start."""

import contextlib
from collections.abc import Collection, Mapping

from replicator.core.selects import Select
from replicator.core.tables import Name
from replicator.mapping.plan import Plan, queries_of
from replicator.migration import as_rows
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.ddl.rewriting import rewritten
from replicator.postgres.session.connect import Connection
from replicator.postgres.trying.rehearsal import read_query, rehearsal
from replicator.preflight.sample import try_transforms
from replicator.preflight.traced import TracedRow


async def newly_accounted(
    source: Connection, plan: Plan, accounted: Mapping[str, Collection[str]]
) -> dict[str, set[str]]:
    """The columns of each table that the migration accounts for now, and did not before.

    A column that has come since the first start is accounted for when a transform or a query reads it, as far as it is
    seen in the first rows of the table, or when the migration retires it. Of an emptied table, a row of NULLs is tried.
    """
    new = {name: set(table.by_name).difference(accounted.get(name, ())) for name, table in plan.watched.items()}
    if not any(new.values()):
        return {}
    read = await _read(source, plan)
    retired = plan.migration.retired_columns
    now = {name: columns & (read.get(name, set()) | set(retired.get(name, ()))) for name, columns in new.items()}
    return {name: columns for name, columns in now.items() if columns}


async def _read(source: Connection, plan: Plan) -> dict[str, set[str]]:
    sample = await try_transforms(source, plan, None)
    found = {name: set(columns) for name, columns in sample.read.items()}
    for each in plan.sources.values():
        if each.table is not None and each.name in sample.empty:
            read = found.setdefault(each.name, set())
            nothing = TracedRow(dict.fromkeys(each.by_name), read)
            for transform in each.transforms:
                if isinstance(transform.function, Select):
                    read.update(column.name for column in transform.function.reads)
                    continue
                with contextlib.suppress(Exception):  # a row of NULLs is none that it must know what to do with
                    list(as_rows(transform.function(nothing)))
    tables = {table.name: name for name, table in plan.watched.items()}
    places = await read_places(source)
    for query in queries_of(plan.migration, plan.direction).values():
        async with rehearsal(source):
            reads = await read_query(source, rewritten(query, places))
        for table, columns in reads.columns.items():
            name = tables.get(Name(schema=table.schema, table=table.table))
            if name is not None:
                found.setdefault(name, set()).update(plan.watched[name].by_name if columns is None else columns)
    return found
