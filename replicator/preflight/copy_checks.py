"""Checks of what ``migration.copy`` declares against the tables that there are."""

from replicator.forgotten import REMEDIES, forgotten_columns
from replicator.plan import Plan
from replicator.preflight.finding import Verdict, failed, listed


def copied_columns(plan: Plan) -> Verdict | None:
    """A column that a copy has no place for would be lost: the author names only those that do not pass as they are."""
    found = forgotten_columns(plan)
    return failed(f"Columns without a place: {listed(found)}.", REMEDIES[plan.direction]) if found else None
