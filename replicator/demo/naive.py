"""The demo's own judgement: all rows of one side, through the transforms, in memory, against all rows of the other.

It shares nothing with the engine but the transforms. What it cannot see is what both sides have lost: that is what the
ledger is for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg.types.string import TextLoader

from replicator.demo.application import Ids, Place
from replicator.demo.connecting import connect
from replicator.migration import Direction, Migration, Query, Transform, as_rows
from replicator.values import as_json

Connection = psycopg.Connection[DictRow]
Key = tuple[str, ...]
Row = dict[str, Any]

DIRECTIONS: Final[tuple[Direction, ...]] = ("forward", "reverse")
JSON_TYPES: Final = (114, 3802)
KEPT_AS_TEXT: Final = ("timestamp", "timestamptz", "uuid", "json", "jsonb")

LOSSY: Final[Mapping[str, frozenset[str]]] = {
    "requests": frozenset({"legacy", "rejected_at", "played_at"}),
    "admins": frozenset({"legacy", "name"}),
    "events": frozenset({"legacy", "version", "updated_at"}),
}
"""What the new application writes and the old schema has no place for. Where it has written since the cutover, these
columns cannot follow from the old rows."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A target row that is not what the transforms give."""

    direction: Direction
    table: str
    key: Key
    kind: str
    """missing, extra or different."""
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f" in {', '.join(self.columns)}" if self.columns else ""
        return f"{self.direction}: {self.table} {', '.join(self.key)} is {self.kind}{where}"


def naive_connection(dsn: str) -> Connection:
    """A connection that sees values as transforms do."""
    connection = connect(dsn, "demo comparison", row_factory=dict_row)
    for name in KEPT_AS_TEXT:
        connection.adapters.register_loader(name, TextLoader)
    return connection


def compare_all(
    connection: Connection, migration: Migration, written_to_new: set[Place]
) -> tuple[list[Difference], int]:
    """Compare both ways, in one snapshot; gives what differs, and how many rows were looked at.

    :param written_to_new: the old keys whose rows have been written to in the new schema.
    """
    ids = Ids(migration)
    touched = {(table, ids.new(table, key)) for table, key in written_to_new}
    found: list[Difference] = []
    rows = 0
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for direction in DIRECTIONS:
            for table in dict.fromkeys(each.into for each in migration.of(direction)):
                target = _Target(connection, migration, direction, table)
                rows += len(target.held)
                found += target.differences(touched)
    return found, rows


class _Target:
    """One target table: its rows as they should be, and as they are."""

    def __init__(self, connection: Connection, migration: Migration, direction: Direction, table: str) -> None:
        self._connection = connection
        self._migration = migration
        self._direction = direction
        self._table = table
        name = self._name(table, target=True)
        self._key = _key_columns(connection, name)
        self.held = {self._key_of(row): row for row in self._read(f"SELECT * FROM {name}", target=True)}
        self.double: list[Key] = []
        self.expected = self._derive()

    def differences(self, touched: set[Place]) -> list[Difference]:
        """Every row that is not as it should be."""
        found = [Difference(self._direction, self._table, key, "double") for key in self.double]
        for key in sorted(self.expected.keys() | self.held.keys()):
            expected, held = self.expected.get(key), self.held.get(key)
            if expected is None or held is None:
                found.append(Difference(self._direction, self._table, key, "extra" if expected is None else "missing"))
                continue
            lossy = self._lossy(key, touched)
            columns = tuple(name for name in held if expected.get(name) != held[name] and name not in lossy)
            if columns:
                found.append(Difference(self._direction, self._table, key, "different", columns))
        return found

    def _lossy(self, key: Key, touched: set[Place]) -> frozenset[str]:
        if self._direction == "reverse" or not touched:
            return frozenset()
        whole = self._table == "events"  # the one row that all settings have become
        return LOSSY.get(self._table, frozenset()) if whole or (self._table, *key) in touched else frozenset()

    def _derive(self) -> dict[Key, Row]:
        derived: dict[Key, Row] = {}
        for transform in self._migration.of(self._direction):
            if transform.into == self._table:
                for source in self._read(self._source(transform), target=False):
                    for given in as_rows(transform.function(source)):
                        key = self._key_of(given)
                        if key in derived:
                            self.double.append(key)
                        derived[key] = given
        return derived

    def _source(self, transform: Transform) -> str:
        if isinstance(transform.source, Query):
            return f"SELECT * FROM ({self._migration.query_text(transform.source)}) AS given"
        return f"SELECT * FROM {self._name(transform.source, target=False)}"

    def _name(self, table: str, *, target: bool) -> str:
        schema = self._migration.new if (self._direction == "forward") == target else self._migration.old
        return sql.Identifier(schema, table).as_string(self._connection)

    def _key_of(self, row: Row) -> Key:
        return tuple(str(row[name]) for name in self._key)

    def _read(self, query: str, *, target: bool) -> list[Row]:
        """Documents are compared by what they say, so a target's are read; a source's are a transform's to read."""
        cursor = self._connection.execute(query.encode())
        documents = [each.name for each in cursor.description or () if each.type_code in JSON_TYPES] if target else []
        rows = cursor.fetchall()
        for row in rows if documents else ():
            for name in documents:
                row[name] = as_json(row[name])
        return rows


def _key_columns(connection: Connection, table: str) -> list[str]:
    found = connection.execute(
        "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)"
        " WHERE indisprimary AND indrelid = %s::regclass ORDER BY array_position(indkey, attnum)",
        [table],
    )
    return [row["attname"] for row in found]
