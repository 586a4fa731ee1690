"""Compares derived rows with those that the target holds, through the same staging tables that rows are written by."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from psycopg import sql

from replicator.core.tables import Key, Table
from replicator.mapping.derive import TargetRow
from replicator.postgres.rows.halving import Halving
from replicator.postgres.rows.inserting import by_columns, same_key
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.staging import POSITION
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.rows.texts import shown
from replicator.postgres.session.connect import identifier

Difference = Literal["missing", "different"]


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """A derived row that the target does not hold as it should."""

    kind: Difference
    source_key: Key
    key: Key
    columns: tuple[str, ...] = ()
    """The columns that differ."""
    note: str = ""
    """Why it cannot be compared."""


async def compare(writer: TargetWriter, table: Table, rows: Sequence[TargetRow]) -> list[Mismatch]:
    """Which derived rows the target lacks or holds otherwise, column by column as the server prints them.

    A row that the table cannot hold at all differs. Inside a transaction of the caller's.
    """
    found: list[Mismatch] = []
    for columns, group in by_columns(rows).items():
        search: Halving[TargetRow] = Halving(
            writer.connection, table, partial(_compare_into, found, writer, table, columns)
        )
        await search.halves(group)
        found += [
            Mismatch(kind="different", source_key=row.source_key, key=row.key, note=error.problem)
            for row, error in search.refused
        ]
    return found


async def _compare_into(
    found: list[Mismatch], writer: TargetWriter, table: Table, columns: tuple[str, ...], rows: Sequence[TargetRow]
) -> None:
    found += await _compare_group(writer, table, columns, rows)


async def _compare_group(
    writer: TargetWriter, table: Table, columns: tuple[str, ...], rows: Sequence[TargetRow]
) -> list[Mismatch]:
    found: dict[int, tuple[bool, list[str]]] = {}
    with refusing():
        async for part, others in writer.stage(table).load_numbered(writer.connection, columns, rows):
            cursor = await writer.connection.execute(_comparison(table, part, [*others, *table.spelt_apart]))
            for place, missing, differs in await cursor.fetchall():
                found.setdefault(place, (missing, []))[1].extend(differs)
    return [
        Mismatch(
            kind="missing" if missing else "different",
            source_key=rows[place].source_key,
            key=rows[place].key,
            columns=() if missing else tuple(name for name in columns if name in differs),
        )
        for place, (missing, differs) in sorted(found.items())
    ]


def _comparison(table: Table, staged: sql.Identifier, others: Sequence[str]) -> sql.Composed:
    """Place, whether the row is missing, and which of these columns differ; for staged rows that are not as held."""
    differing = sql.SQL(", ").join([
        sql.SQL("CASE WHEN {} IS DISTINCT FROM {} THEN {}::text END").format(
            shown(identifier("s", name), table.by_name[name]),
            shown(identifier("t", name), table.by_name[name]),
            sql.Literal(name),
        )
        for name in others
    ])  # fmt: skip
    return sql.SQL(
        "SELECT * FROM (SELECT s.{position} AS place, t.{first} IS NULL AS missing, "
        "array_remove(ARRAY[{differing}]::text[], NULL) AS differing FROM {stage} AS s "
        "LEFT JOIN {table} AS t ON {same}) AS found WHERE missing OR cardinality(differing) > 0"
    ).format(
        position=identifier(POSITION),
        first=identifier(table.key[0]),
        differing=differing,
        stage=staged,
        table=identifier(table.name.schema, table.name.table),
        same=same_key(table),
    )
