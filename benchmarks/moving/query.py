"""Customers with what they have ordered, by a query: many changes to orders lead to one customer."""

from pathlib import Path
from typing import Any, Final

from replicator import Migration, Query, Row

migration: Final = Migration(
    "bench", old="public", new="shop", sql=Path(__file__).parents[1] / "fan_in_sql", way_back=False
)
SOURCE: Final = Query("customer_totals.sql", key=["id"], depends_on={"customers": ["id"], "orders": ["customer_id"]})


@migration.transform(source=SOURCE, into="customers", key=lambda old: old["id"])
def customer(old: Row) -> dict[str, Any]:
    """The columns are the same."""
    return dict(old)
