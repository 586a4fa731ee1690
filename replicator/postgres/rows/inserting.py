"""Statements that write staged rows to a target."""

from collections.abc import Iterable
from typing import Literal

from psycopg import sql

from replicator.core.tables import Table
from replicator.mapping.derive import TargetRow
from replicator.postgres.catalog.operators import all_equal
from replicator.postgres.rows.staging import Stage
from replicator.postgres.session.connect import comma, identifier


def by_columns(rows: Iterable[TargetRow]) -> dict[tuple[str, ...], list[TargetRow]]:
    """Rows that give the same columns go together: one statement writes or compares them."""
    groups: dict[tuple[str, ...], list[TargetRow]] = {}
    for row in rows:
        groups.setdefault(tuple(row.columns), []).append(row)
    return groups


def same_key(table: Table, alias: Literal["t", "p", "c"] = "t") -> sql.Composed:
    """That a row of the table, by this alias, has the key of the staged row ``s``."""
    return all_equal(alias, "s", table.key_columns)


def insert(
    table: Table,
    stage: Stage,
    columns: tuple[str, ...],
    *,
    absent_only: bool,
    replacing: frozenset[str] | None = None,
    aside: bool = True,
) -> sql.Composed:
    """The statement that writes the staged rows.

    :param replacing: write only those in whose place one is kept aside, with its other columns, but for these, which
        are NULL.
    :param aside: with False, only those in whose place none is.
    """
    shown = table.spelt_apart
    updated = [name for name in columns if name not in table.key or name in shown]
    action = (
        sql.SQL("DO NOTHING")
        if absent_only or not updated  # guard: ABSENT; mutation: chunk-absent-only
        else sql.SQL("DO UPDATE SET {}").format(
            comma([sql.SQL("{0} = EXCLUDED.{0}").format(identifier(name)) for name in updated])
        )
    )
    values = {name: identifier("s", name) for name in columns}
    same, source = all_equal("a", "s", table.key_columns), sql.SQL("{} AS s").format(stage.rows)
    if replacing is not None:
        source = sql.SQL("{} AS s JOIN {} AS a ON {}").format(stage.rows, stage.aside.name, same)
        values |= {name: identifier("a", name) for name in left_out(table, columns) if name not in replacing}
    elif not aside:
        source = sql.SQL("{} AS s WHERE NOT EXISTS (SELECT FROM {} AS a WHERE {})").format(
            stage.rows, stage.aside.name, same
        )
    nulls = [name for name in left_out(table, columns) if replacing is not None and name in replacing]
    return sql.SQL(
        "INSERT INTO {} AS t ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} ON CONFLICT ({}) {}"
    ).format(
        identifier(table.name.schema, table.name.table),
        comma([identifier(name) for name in [*values, *nulls]]),
        comma([*(sql.SQL("{}").format(each) for each in values.values()), *(sql.SQL("NULL").format() for _ in nulls)]),
        source,
        comma([identifier(name) for name in table.key]),
        action,
    )  # fmt: skip


def left_out(table: Table, columns: Iterable[str]) -> list[str]:
    """The columns that a row with these leaves as they are, and that somebody may have written."""
    given = set(columns)
    return [each.name for each in table.columns if not each.generated and each.name not in given]
