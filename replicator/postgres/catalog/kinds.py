"""What kind of value a type holds, whatever domains it is under, and what compares its values."""

from replicator.core.tables import Operators
from replicator.postgres.catalog.operators import read_operators
from replicator.postgres.session.connect import Connection
from replicator.postgres.session.server import fetch
from replicator.values import Kind

BASE_KINDS: dict[int, Kind] = {
    16: "boolean",
    17: "bytea",
    20: "integer",
    21: "integer",
    23: "integer",
    26: "integer",
    114: "json",
    700: "float",
    701: "float",
    1700: "numeric",
    2950: "uuid",
    3802: "json",
}

# A domain counts as the type that it is over, however deep.
BASE_TYPE = """
    WITH RECURSIVE base(oid, under) AS (
        SELECT t.oid, t.oid FROM pg_type t
        UNION ALL
        SELECT b.oid, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.under WHERE t.typtype = 'd'
    )
    SELECT b.oid, b.under, t.typcategory = 'A' AS is_array
    FROM base b JOIN pg_type t ON t.oid = b.under
    WHERE t.typtype <> 'd' AND b.oid = ANY (%(oids)s::oid[])
"""


async def kinds_of(connection: Connection, oids: list[int]) -> dict[int, tuple[Kind, Operators]]:
    """Of each type: what kind it is, and what compares its values."""
    rows = await fetch(connection, BASE_TYPE, oids=list(set(oids)))
    operators = await read_operators(connection, oids)
    return {
        row["oid"]: (_kind(row["under"], is_array=row["is_array"]), operators.get(row["oid"], Operators()))
        for row in rows
    }


async def type_names(connection: Connection, oids: list[int]) -> dict[int, str]:
    """Of each type, without a modifier."""
    rows = await fetch(
        connection, "SELECT o AS oid, format_type(o, -1) AS type FROM unnest(%(oids)s::oid[]) o", oids=oids
    )
    return {row["oid"]: row["type"] for row in rows}


def _kind(base: int, *, is_array: bool) -> Kind:
    return "array" if is_array else BASE_KINDS.get(base, "text")
