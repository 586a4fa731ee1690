"""Checks of what ``migration.copy`` declares against the tables that there are."""

from collections.abc import Mapping

from replicator.core.tables import Table
from replicator.mapping.forgotten import REMEDIES, forgotten_columns
from replicator.mapping.plan import Plan
from replicator.migration import Migration
from replicator.postgres.catalog.typenames import is_type_of
from replicator.postgres.session.connect import Connection
from replicator.preflight.finding import Verdict, failed, listed


def copied_columns(plan: Plan) -> Verdict | None:
    """A column that a copy has no place for would be lost: the author names only those that do not pass as they are."""
    found = forgotten_columns(plan)
    return failed(f"Columns without a place: {listed(found)}.", REMEDIES[plan.direction]) if found else None


async def other_types(target: Connection, migration: Migration, new: Mapping[str, Table]) -> list[str]:
    """The new columns that have another type than their copy says: ``shop.t.id is integer, and cast to bigint``."""
    found = []
    for copy in migration.copies:
        table = new.get(copy.into)
        for old, cast in copy.cast.items() if table is not None else ():
            column = table.by_name.get(copy.rename.get(old, old)) if table is not None else None
            if column is not None and not await is_type_of(target, cast.type, column):
                found.append(f"{migration.new}.{copy.into}.{column.name} is {column.type}, and cast to {cast.type}")
    return found


def cast_types(found: list[str]) -> Verdict | None:
    """A new table that is not what the copy says: rows pass, and the work is not done."""
    return failed(f"Other types than copies say: {listed(found)}.", "Change sql/new, or cast=.") if found else None
