"""What no transform gives is let alone, in whatever order rows are written: the application may have written it.

The same tables on both sides, where the target's have columns more. Both hold the same rows when the stream begins.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration, Row
from replicator.migration import Direction
from tests.engine import Engine, execute, make_settings
from tests.fix_postgres import Database
from tests.order_catalogue import CASES, Case, numbered, quarantined

pytestmark = pytest.mark.one_server

EXTRA = (
    "ADD memo text, ADD mark integer NOT NULL DEFAULT 7, ADD ident bigint GENERATED ALWAYS AS IDENTITY, "
    "ADD twice integer GENERATED ALWAYS AS (mark * 2) STORED"
)
MARKS = "UPDATE {table} SET memo = 'm' || id, mark = id * 10"
MOVED: Mapping[str, Mapping[str, Mapping[int, int]]] = {
    "keys that cascade": {"parents": {101: 1, 102: 2}},
    "keys that cascade, with children of theirs that stay": {"parents": {3: 1}},
    "keys that change, of parents that are known by their names": {"parents": {3: 2, 2: 1}},
    "deletions that set null": {"parents": {5: 2}},
}
"""By case and table, the new key of a row by the old one."""


def migration_of(folder: Path, names: Sequence[str], left_out: Mapping[str, set[str]]) -> Migration:
    (folder / "new").mkdir(parents=True, exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text("CREATE SCHEMA IF NOT EXISTS shop;")
    migration = Migration("kept", old="public", new="shop", sql=folder)
    for name in names:

        def same(row: Row, left: frozenset[str] = frozenset(left_out.get(name, ()))) -> dict[str, Any]:
            return {column: value for column, value in row.items() if column not in left}

        migration.transform(source=name, into=name, key=lambda old: old["id"], name=name)(same)
        migration.reverse(source=name, into=name, key=lambda new: new["id"], name=name)(same)
    return migration


@dataclass(frozen=True)
class Sides:
    made: Engine
    dsn: str
    source: str
    target: str

    def run(self, schema: str, *statements: str) -> None:
        execute(self.dsn, [f"SET LOCAL search_path = {schema}, public", *statements])

    async def follow(self, *statements: str) -> None:
        """One transaction on the source, and what comes of it. The guards let it pass: nothing has been cut over."""
        passing = "SELECT set_config('replicator.pass', (SELECT pass FROM _replicator.secrets), true)"
        self.run(self.source, passing, *statements)
        await self.made.drain()

    def rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.dsn) as opened:
            opened.execute(f"SET search_path = {self.target}, public".encode())
            return opened.execute(query.encode()).fetchall()

    def kept(self, table: str) -> dict[int, Any]:
        return {row[0]: row[1:] for row in self.rows(f"SELECT id, memo, mark, ident, twice FROM {table}")}


@contextlib.asynccontextmanager
async def followed(
    database: Database,
    folder: Path,
    case: Case,
    direction: Direction,
    left_out: Mapping[str, set[str]] | None = None,
    only_there: str = "",
    **others: Any,
) -> AsyncIterator[Sides]:
    """Tables on both sides, with rows in them, and a pipeline that follows.

    :param only_there: what the target has besides.
    """
    source, target = ("public", "shop") if direction == "forward" else ("shop", "public")
    made = Engine(
        make_settings(database, **others), migration_of(folder, case.names, left_out or {}), direction
    )  # fmt: skip
    sides = Sides(made, database.dsn, source, target)
    execute(database.dsn, ["CREATE SCHEMA shop"])
    for schema in ("public", "shop"):
        sides.run(schema, case.tables, case.constraints, *case.before)
    for name in case.names:
        sides.run(target, f"ALTER TABLE {name} {EXTRA}", MARKS.format(table=name))
    if only_there:
        sides.run(target, only_there)
    await made.set_up()
    try:
        await made.start()
        yield sides
    finally:
        await made.stop()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("together", [True, False], ids=["at once", "in pieces"])
async def test_what_nobody_gives_stays(
    database: Database, tmp_path: Path, direction: Direction, together: bool
) -> None:
    cases = {name: numbered(case, number) for number, (name, case) in enumerate(CASES.items())}
    every = Case(
        tables=" ".join(each.tables for each in cases.values()),
        constraints="; ".join(each.constraints.rstrip("; ") for each in cases.values()) + ";",
        before=[statement for each in cases.values() for statement in each.before],
        transaction=[],
        names=[name for each in cases.values() for name in each.names],
    )
    async with followed(database, tmp_path, every, direction, batch_rows=100 if together else 1) as sides:
        for name, case in cases.items():
            before = {table: sides.kept(table) for table in case.names}
            await sides.follow(*case.transaction)
            assert (name, quarantined(database.dsn)) == (name, [])
            for table in case.names:
                moved = MOVED.get(name, {}).get(table.rsplit("_", 1)[0], {})
                for key, kept in sides.kept(table).items():
                    was = before[table].get(moved.get(key, key))
                    assert (name, table, key, kept[:2]) == (name, table, key, was[:2] if was else (None, 7))
                    if was:
                        assert (name, table, key, kept) == (name, table, key, was)


NAMED = "CREATE TABLE teams (id integer PRIMARY KEY, name text UNIQUE, captain integer); "
PLAYERS = "CREATE TABLE players (id integer PRIMARY KEY, team integer NOT NULL, name text UNIQUE);"
BETWEEN = (
    "ALTER TABLE teams ADD FOREIGN KEY (captain) REFERENCES players (id); "
    "ALTER TABLE players ADD FOREIGN KEY (team) REFERENCES teams (id);"
)
PLAYED = (
    "INSERT INTO teams VALUES (1, 'a'), (2, 'b')",
    "INSERT INTO players VALUES (1, 1, 'x'), (2, 2, 'y'), (3, 1, 'z')",
    "UPDATE teams SET captain = id",
)
EXCHANGED = (
    "UPDATE teams SET name = 'tmp' WHERE id = 1",
    "UPDATE teams SET name = 'a' WHERE id = 2",
    "UPDATE teams SET name = 'b' WHERE id = 1",
    "UPDATE players SET name = 'tmp' WHERE id = 1",
    "UPDATE players SET name = 'x' WHERE id = 2",
    "UPDATE players SET name = 'y' WHERE id = 1",
)
CIRCLE = Case(
    tables=NAMED + PLAYERS, constraints=BETWEEN, before=PLAYED, transaction=EXCHANGED, names=("teams", "players")
)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
async def test_references_that_nobody_gives(database: Database, tmp_path: Path, direction: Direction) -> None:
    """Who is captain is not carried over: it stays, though both rows are written anew."""
    async with followed(
        database,
        tmp_path,
        CIRCLE,
        direction,
        {"teams": {"captain"}},
        "ALTER TABLE teams ADD must integer NOT NULL DEFAULT 0; UPDATE teams SET must = id; "
        "ALTER TABLE teams ADD UNIQUE (must)",
    ) as sides:
        before = sides.kept("teams"), sides.kept("players")
        await sides.follow(*EXCHANGED)
        assert quarantined(database.dsn) == []
        assert sides.rows("SELECT id, name, captain, must FROM teams ORDER BY 1") == [(1, "b", 1, 1), (2, "a", 2, 2)]
        assert sides.rows("SELECT id, team, name FROM players ORDER BY 1") == [(1, 1, "y"), (2, 2, "x"), (3, 1, "z")]
        assert (sides.kept("teams"), sides.kept("players")) == before


async def test_a_reference_that_nobody_gives_holds_its_row(database: Database, tmp_path: Path) -> None:
    async with followed(database, tmp_path, CIRCLE, "reverse", {"teams": {"captain"}}) as sides:
        await sides.follow(*EXCHANGED, "UPDATE teams SET captain = 3 WHERE id = 1", "DELETE FROM players WHERE id = 1")
        assert [each[:2] for each in quarantined(database.dsn)] == [("players", '["1"]')]
        assert sides.rows("SELECT id, captain FROM teams ORDER BY 1") == [(1, 1), (2, 2)]
        assert sides.rows("SELECT id, name FROM teams ORDER BY 1") == [(1, "b"), (2, "a")]


@pytest.mark.parametrize("action", ["ON DELETE CASCADE", "ON DELETE SET NULL", ""])
async def test_rows_of_tables_that_nobody_migrates_refer_to_what_is_written_anew(
    database: Database, tmp_path: Path, action: str
) -> None:
    badges = f"CREATE TABLE badges (id integer, team integer REFERENCES teams {action});"
    badges += "INSERT INTO badges VALUES (1, 1), (2, 2)"
    async with followed(database, tmp_path, CIRCLE, "reverse", None, badges) as sides:
        await sides.follow(*EXCHANGED)
        assert quarantined(database.dsn) == []
        assert sides.rows("SELECT id, name FROM teams ORDER BY 1") == [(1, "b"), (2, "a")]
        assert sides.rows("SELECT * FROM badges ORDER BY 1") == [(1, 1), (2, 2)]


@pytest.mark.parametrize("follows", ["", "ON UPDATE CASCADE"])
async def test_a_row_that_gets_another_key_keeps_what_is_unique(
    database: Database, tmp_path: Path, follows: str
) -> None:
    """And it is held by children until these have been written."""
    case = Case(
        tables="CREATE TABLE parents (id integer PRIMARY KEY, name text); "
        "CREATE TABLE children (id integer PRIMARY KEY, parent integer NOT NULL);",
        constraints=f"ALTER TABLE children ADD FOREIGN KEY (parent) REFERENCES parents (id) {follows}",
        before=["INSERT INTO parents VALUES (1, 'a'), (2, 'b')", "INSERT INTO children VALUES (1, 1), (2, 2)"],
        transaction=[],
    )
    only_there = "ALTER TABLE parents ADD code text UNIQUE; UPDATE parents SET code = 'c' || id"
    async with followed(database, tmp_path, case, "reverse", None, only_there) as sides:
        sides.run("shop", "ALTER TABLE children DROP CONSTRAINT children_parent_fkey")
        await sides.follow("UPDATE parents SET id = 5 WHERE id = 2", "UPDATE children SET parent = 5 WHERE parent = 2")
        assert quarantined(database.dsn) == []
        assert sides.rows("SELECT id, code FROM parents WHERE id = 5") == [(5, "c2")]
        assert sides.rows("SELECT id, parent FROM children ORDER BY 1") == [(1, 1), (2, 5)]
