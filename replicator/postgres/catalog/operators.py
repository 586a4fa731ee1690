"""Which operators compare a type's values, and SQL that names them with their schema.

What stands in SQL as ``=``, ``<``, ``IN``, ``= ANY``, ``IS DISTINCT FROM``, ``USING`` or a comparison of rows is looked
up by name in the session's ``search_path``; ``ORDER BY``, ``GROUP BY``, ``DISTINCT`` and ``ON CONFLICT`` go by the
type's default operator class. So the former must name what the latter take.
"""

from collections.abc import Iterable
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row

from replicator.core.tables import Column, ForeignKey, Operators
from replicator.postgres.session.connect import Connection, identifier

# As the server chooses an operator class: the type's own, else that of a type which its values are of as they stand.
# A domain counts as the type that it is over, however deep. A type without an order may still be hashed.
OPERATORS = """
    WITH RECURSIVE base(oid, under) AS (
        SELECT t.oid, t.oid FROM pg_type t WHERE t.oid = ANY (%(oids)s::oid[])
        UNION ALL
        SELECT b.oid, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.under WHERE t.typtype = 'd'
    ), types AS (
        SELECT b.oid, b.under, CASE
            WHEN t.typtype = 'e' THEN 'anyenum'::regtype
            WHEN t.typtype = 'c' THEN 'record'::regtype
            WHEN t.typtype = 'r' THEN 'anyrange'::regtype
            WHEN t.typtype = 'm' THEN 'anymultirange'::regtype
            WHEN t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0 THEN 'anyarray'::regtype
        END AS any_of
        FROM base b JOIN pg_type t ON t.oid = b.under WHERE t.typtype <> 'd'
    )
    SELECT t.oid, k.amname AS method, array_agg(n.nspname::text ORDER BY s.amopstrategy) AS schemas,
           array_agg(o.oprname::text ORDER BY s.amopstrategy) AS names
    FROM types t
    CROSS JOIN LATERAL (
        SELECT c.opcfamily, c.opcintype, m.amname
        FROM pg_opclass c JOIN pg_am m ON m.oid = c.opcmethod JOIN pg_type i ON i.oid = c.opcintype
        WHERE m.amname IN ('btree', 'hash') AND c.opcdefault AND (
            c.opcintype IN (t.under, t.any_of) OR EXISTS (
                SELECT FROM pg_cast x WHERE x.castsource = t.under AND x.casttarget = c.opcintype
                AND x.castmethod = 'b' AND x.castcontext = 'i'))
        ORDER BY m.amname, c.opcintype = t.under DESC, i.typispreferred DESC LIMIT 1
    ) AS k
    JOIN pg_amop s ON s.amopfamily = k.opcfamily AND s.amoplefttype = k.opcintype
        AND s.amoprighttype = k.opcintype AND s.amoppurpose = 's'
    JOIN pg_operator o ON o.oid = s.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
    GROUP BY t.oid, k.amname
"""
"""By the strategies' numbers: of btree <, <=, =, >=, >; of hash = alone."""


async def read_operators(connection: Connection, oids: Iterable[int]) -> dict[int, Operators]:
    """The operators of some types, by oid; a type that cannot be compared is left out."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(OPERATORS.encode(), {"oids": sorted(set(oids))})
        return {row["oid"]: _operators(row) for row in await cursor.fetchall()}


def _operators(row: dict[str, Any]) -> Operators:
    schema, names = row["schemas"][0], row["names"]
    if row["method"] == "hash":
        return Operators(schema=schema, equal=names[0])
    less, less_or_equal, equal, _, greater = names
    return Operators(schema=schema, equal=equal, less=less, less_or_equal=less_or_equal, greater=greater)


def operator(operators: Operators, name: str) -> sql.Composed:
    """An operator as SQL names it: ``OPERATOR(schema.=)``."""
    return sql.SQL("OPERATOR({}.{})").format(identifier(operators.schema), sql.SQL(name))


def equal(left: sql.Composable, right: sql.Composable, operators: Operators) -> sql.Composed:
    """That two values of one type are equal."""
    return sql.SQL("{} {} {}").format(left, operator(operators, operators.equal), right)


def refers(foreign_key: ForeignKey, child: str, parent: str) -> sql.Composed:
    """That the row of one alias refers to the row of another, as the foreign key itself compares them."""
    pairs = zip(foreign_key.parent_columns, foreign_key.columns, foreign_key.operators, strict=True)
    return sql.SQL(" AND ").join([
        equal(identifier(parent, theirs), identifier(child, mine), operators) for theirs, mine, operators in pairs
    ])  # fmt: skip


def all_equal(left: str, right: str, columns: Iterable[Column]) -> sql.Composed:
    """That the rows of two aliases have equal values in these columns."""
    return sql.SQL(" AND ").join([
        equal(identifier(left, each.name), identifier(right, each.name), each.operators) for each in columns
    ])  # fmt: skip
