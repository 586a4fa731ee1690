"""Whether the source tables are still what they were when the plan was made; if not, the daemon must stop."""

from collections.abc import Mapping

from replicator.changes import RelationDefinition
from replicator.errors import DefinitionError
from replicator.plan import Plan
from replicator.tables import Table

ANEW = "Start anew: drop the slot, the new tables and the schema replicator; `replicator run` then fills them again."


def check_tables(plan: Plan, now: Mapping[str, Table]) -> None:
    """Compare with the catalogue. Raises DefinitionError when a table is gone or a type has changed."""
    for name, table in plan.watched.items():
        if name not in now:
            raise DefinitionError(f"The source table {table.name} is gone.", ANEW)
        for column in now[name].columns:
            _compare_type(table, column.name, column.type_oid)


def check_relation(plan: Plan, definition: RelationDefinition) -> None:
    """Compare with what the stream says. Raises DefinitionError when a type has changed.

    A column that is new or gone is told where a row comes with it, or without it.
    """
    schema, name = definition.relation
    table = plan.watched.get(name) if schema == plan.source_schema else None
    for column, oid in definition.columns if table else ():
        _compare_type(table, column, oid)


def _compare_type(table: Table | None, column: str, type_oid: int) -> None:
    known = table.by_name.get(column) if table else None
    if table is not None and known is not None and known.type_oid != type_oid:
        raise DefinitionError(f"The type of {table.name}.{column} has changed; its rows were rewritten unseen.", ANEW)
