"""Columns of copied tables that would be lost without a word: they have no place in the copy, and are not dropped."""

from replicator.errors import MigrationError
from replicator.mapping.plan import Plan
from replicator.migration import Direction

REMEDIES: dict[Direction, str] = {
    "forward": "Add them to the new tables in sql/new, or name them in rename= or drop= of migration.copy.",
    "reverse": "Name them in add= of migration.copy: they are left out on the way back.",
}


def forgotten_columns(plan: Plan) -> list[str]:
    """These columns, as ``schema.table.column``."""
    return [column for each in plan.transforms for column in each.forgotten]


def refuse_forgotten(plan: Plan) -> None:
    """Raise MigrationError if there are any.

    Not at every start: a column that comes while the daemon runs shuts a gate, and stops nothing.
    """
    found = forgotten_columns(plan)
    if found:
        raise MigrationError(
            f"Copied tables have columns without a place: {', '.join(found)}.", REMEDIES[plan.direction]
        )
