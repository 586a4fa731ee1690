"""What the application did in one transaction is written in an order that the target's constraints admit.

The tables of both sides are the same, and so are their constraints; the row of each is copied as it is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration, Row
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database

pytestmark = pytest.mark.one_server


def same_tables(folder: Path, dsn: str, tables: str, constraints: str, names: Sequence[str]) -> Migration:
    """The same tables in ``public`` and ``shop``, copied as they are by their column ``id``; constraints on both."""
    new = folder / "new"
    new.mkdir(parents=True, exist_ok=True)
    (new / "10_tables.sql").write_text(
        "CREATE SCHEMA IF NOT EXISTS shop; SET LOCAL search_path = shop, public; "
        + tables.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS shop.")
    )
    (new / "30_constraints.sql").write_text(
        constraints.replace("ALTER TABLE ", "ALTER TABLE shop.").replace("REFERENCES ", "REFERENCES shop.")
    )
    execute(dsn, [tables, constraints])
    migration = Migration("same", old="public", new="shop", sql=folder)
    for name in names:
        migration.transform(source=name, into=name, key=lambda old: old["id"], name=name)(_as_it_is)
        migration.reverse(source=name, into=name, key=lambda new: new["id"], name=name)(_as_it_is)
    return migration


def _as_it_is(row: Row) -> dict[str, Any]:
    return dict(row)


def quarantined(dsn: str) -> list[tuple[str, str, str]]:
    with psycopg.connect(dsn) as target:
        return target.execute("SELECT transform, source_key, error FROM _replicator.quarantine").fetchall()


@dataclass(frozen=True, kw_only=True)
class Case:
    """Tables with constraints, what they hold, and one transaction of the application."""

    tables: str
    constraints: str
    before: Sequence[str]
    transaction: Sequence[str]
    names: Sequence[str] = field(default=("parents", "children"))


PARENTS = "CREATE TABLE parents (id integer PRIMARY KEY, name text); "
CHILDREN = "CREATE TABLE children (id integer PRIMARY KEY, parent integer NOT NULL, name text);"
REFERS = "ALTER TABLE children ADD FOREIGN KEY (parent) REFERENCES parents (id)"
UNIQUE = "ALTER TABLE parents ADD UNIQUE (name);"
FAMILY = ("INSERT INTO parents VALUES (1, 'a'), (2, 'b')", "INSERT INTO children VALUES (1, 1, 'x'), (2, 2, 'y')")
GRANDCHILDREN = "CREATE TABLE toys (id integer PRIMARY KEY, child integer NOT NULL);"
CIRCLE = (
    "CREATE TABLE teams (id integer PRIMARY KEY, captain integer); "
    "CREATE TABLE players (id integer PRIMARY KEY, team integer NOT NULL);"
)
CIRCULAR = (
    "ALTER TABLE teams ADD FOREIGN KEY (captain) REFERENCES players (id); "
    "ALTER TABLE players ADD FOREIGN KEY (team) REFERENCES teams (id);"
)
TREE = "CREATE TABLE nodes (id integer PRIMARY KEY, parent integer, note text DEFAULT 'none');"

CASES = {
    "children move, and the parent goes": Case(
        tables=PARENTS + CHILDREN,
        constraints=REFERS,
        before=FAMILY,
        transaction=["UPDATE children SET parent = 2", "DELETE FROM parents WHERE id = 1"],
    ),
    "a table is emptied, and filled again": Case(
        tables=PARENTS + CHILDREN,
        constraints=REFERS,
        before=FAMILY,
        transaction=["TRUNCATE children", "INSERT INTO children VALUES (5, 1, 'z')"],
    ),
    "to a parent that comes": Case(
        tables=PARENTS + CHILDREN,
        constraints=REFERS,
        before=FAMILY,
        transaction=[
            "INSERT INTO parents VALUES (3, 'c')",
            "UPDATE children SET parent = 3 WHERE parent = 1",
            "DELETE FROM parents WHERE id = 1",
        ],
    ),
    "to one that takes over the unique name": Case(
        tables=PARENTS + CHILDREN,
        constraints=UNIQUE + REFERS,
        before=FAMILY,
        transaction=[
            "INSERT INTO parents VALUES (3, 'c')",
            "UPDATE children SET parent = 3 WHERE parent = 1",
            "DELETE FROM parents WHERE id = 1",
            "UPDATE parents SET name = 'a' WHERE id = 3",
        ],
    ),
    "while children of theirs stay": Case(
        tables=PARENTS + CHILDREN + GRANDCHILDREN,
        constraints=UNIQUE + REFERS + "; ALTER TABLE toys ADD FOREIGN KEY (child) REFERENCES children (id);",
        before=[*FAMILY, "INSERT INTO toys VALUES (1, 1), (2, 2)"],
        transaction=[
            "INSERT INTO parents VALUES (3, 'c')",
            "UPDATE children SET parent = 3 WHERE parent = 1",
            "DELETE FROM parents WHERE id = 1",
            "UPDATE parents SET name = 'a' WHERE id = 3",
        ],
        names=("parents", "children", "toys"),
    ),
    "keys that cascade": Case(
        tables=PARENTS + CHILDREN,
        constraints=UNIQUE + REFERS + " ON UPDATE CASCADE ON DELETE CASCADE",
        before=FAMILY,
        transaction=["UPDATE parents SET id = id + 100"],
    ),
    "keys that cascade, with children of theirs that stay": Case(
        tables=PARENTS + CHILDREN + GRANDCHILDREN,
        constraints=UNIQUE
        + REFERS
        + " ON UPDATE CASCADE; ALTER TABLE toys ADD FOREIGN KEY (child) REFERENCES children (id);",
        before=[*FAMILY, "INSERT INTO toys VALUES (1, 1), (2, 2)"],
        transaction=["UPDATE parents SET id = 3 WHERE id = 1"],
        names=("parents", "children", "toys"),
    ),
    "keys that change, of parents that are known by their names": Case(
        tables=PARENTS + CHILDREN.replace("parent integer", "parent text"),
        constraints=UNIQUE + REFERS.replace("(id)", "(name)") + " ON DELETE CASCADE",
        before=[FAMILY[0], "INSERT INTO children VALUES (1, 'a', 'x'), (2, 'b', 'y')"],
        transaction=["UPDATE parents SET id = id + 1 WHERE id = 2", "UPDATE parents SET id = id + 1 WHERE id = 1"],
    ),
    "deletions that cascade": Case(
        tables=PARENTS + CHILDREN,
        constraints=REFERS + " ON DELETE CASCADE",
        before=FAMILY,
        transaction=["DELETE FROM parents WHERE id = 1"],
    ),
    "deletions that set null": Case(
        tables=PARENTS + CHILDREN.replace(" NOT NULL", ""),
        constraints=REFERS + " ON DELETE SET NULL ON UPDATE CASCADE",
        before=FAMILY,
        transaction=["DELETE FROM parents WHERE id = 1", "UPDATE parents SET id = 5 WHERE id = 2"],
    ),
    "deletions that are restricted": Case(
        tables=PARENTS + CHILDREN,
        constraints=REFERS + " ON DELETE RESTRICT ON UPDATE RESTRICT DEFERRABLE",
        before=FAMILY,
        transaction=["UPDATE children SET parent = 2", "DELETE FROM parents WHERE id = 1"],
    ),
    "a circle that begins": Case(
        tables=CIRCLE,
        constraints=CIRCULAR,
        before=[],
        transaction=[
            "INSERT INTO teams VALUES (1), (2)",
            "INSERT INTO players VALUES (1, 1), (2, 2)",
            "UPDATE teams SET captain = id",
        ],
        names=("teams", "players"),
    ),
    "a circle that ends": Case(
        tables=CIRCLE,
        constraints=CIRCULAR,
        before=[
            "INSERT INTO teams VALUES (1), (2)",
            "INSERT INTO players VALUES (1, 1), (2, 2)",
            "UPDATE teams SET captain = id",
        ],
        transaction=["UPDATE teams SET captain = NULL", "DELETE FROM players", "DELETE FROM teams"],
        names=("teams", "players"),
    ),
    "a circle that changes": Case(
        tables=CIRCLE,
        constraints=CIRCULAR,
        before=[
            "INSERT INTO teams VALUES (1), (2)",
            "INSERT INTO players VALUES (1, 1), (2, 2)",
            "UPDATE teams SET captain = id",
        ],
        transaction=[
            "INSERT INTO players VALUES (3, 1)",
            "UPDATE teams SET captain = 3 WHERE id = 1",
            "DELETE FROM players WHERE id = 1",
        ],
        names=("teams", "players"),
    ),
    "a circle that acts is emptied": Case(
        tables=CIRCLE,
        constraints=CIRCULAR.replace("players (id)", "players (id) ON DELETE SET NULL DEFERRABLE").replace(
            "teams (id)", "teams (id) ON DELETE RESTRICT"
        ),
        before=[
            "INSERT INTO teams VALUES (1), (2)",
            "INSERT INTO players VALUES (1, 1), (2, 2)",
            "UPDATE teams SET captain = id",
        ],
        transaction=["TRUNCATE teams, players"],
        names=("teams", "players"),
    ),
    "a circle that is emptied, where what acts on a deletion could not do it": Case(
        tables=CIRCLE,
        constraints=CIRCULAR.replace("teams (id)", "teams (id) ON DELETE SET NULL"),
        before=[
            "INSERT INTO teams VALUES (1), (2)",
            "INSERT INTO players VALUES (1, 1), (2, 2)",
            "UPDATE teams SET captain = id",
        ],
        transaction=["TRUNCATE teams, players"],
        names=("teams", "players"),
    ),
    "what goes with each other in a circle": Case(
        tables=CIRCLE.replace("captain integer", "captain integer NOT NULL"),
        constraints=CIRCULAR.replace("(id);", "(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;"),
        before=[
            "INSERT INTO teams VALUES (1, 1), (2, 2), (3, 3)",
            "INSERT INTO players VALUES (1, 1), (2, 2), (3, 3), (4, 1)",
        ],
        transaction=["UPDATE players SET team = 2 WHERE id = 4", "DELETE FROM teams WHERE id <> 2"],
        names=("teams", "players"),
    ),
    "a tree that is planted, in the order of no key": Case(
        tables=TREE,
        constraints="ALTER TABLE nodes ADD FOREIGN KEY (parent) REFERENCES nodes (id)",
        before=[],
        transaction=["INSERT INTO nodes VALUES (9, NULL)", "INSERT INTO nodes VALUES (5, 9), (7, 5), (1, 7)"],
        names=("nodes",),
    ),
    "a tree that is felled": Case(
        tables=TREE,
        constraints="ALTER TABLE nodes ADD FOREIGN KEY (parent) REFERENCES nodes (id) ON DELETE CASCADE",
        before=["INSERT INTO nodes VALUES (9, NULL), (5, 9), (7, 5), (1, 7), (2, NULL)"],
        transaction=["UPDATE nodes SET parent = 2 WHERE id = 1", "DELETE FROM nodes WHERE id = 9"],
        names=("nodes",),
    ),
    "unique names are exchanged": Case(
        tables=PARENTS + CHILDREN,
        constraints=UNIQUE + REFERS,
        before=FAMILY,
        transaction=[
            "UPDATE parents SET name = 'tmp' WHERE id = 1",
            "UPDATE parents SET name = 'a' WHERE id = 2",
            "UPDATE parents SET name = 'b' WHERE id = 1",
        ],
    ),
    "rooms are exchanged": Case(
        tables="CREATE TABLE rooms (id integer PRIMARY KEY, room integer, during int4range);",
        constraints="ALTER TABLE rooms ADD EXCLUDE USING gist (during WITH &&)",
        before=["INSERT INTO rooms VALUES (1, 1, '[1,10)'), (2, 1, '[10,20)')"],
        transaction=[
            "UPDATE rooms SET during = '[100,101)' WHERE id = 1",
            "UPDATE rooms SET during = '[1,10)' WHERE id = 2",
            "UPDATE rooms SET during = '[10,20)' WHERE id = 1",
        ],
        names=("rooms",),
    ),
    "a room passes on to a new booking": Case(
        tables="CREATE TABLE rooms (id integer PRIMARY KEY, room integer, during int4range);",
        constraints="ALTER TABLE rooms ADD EXCLUDE USING gist (during WITH &&) DEFERRABLE",
        before=["INSERT INTO rooms VALUES (1, 1, '[1,10)'), (2, 1, '[10,20)')"],
        transaction=["DELETE FROM rooms WHERE id = 1", "INSERT INTO rooms VALUES (3, 1, '[5,10)')"],
        names=("rooms",),
    ),
}


def numbered(case: Case, number: int) -> Case:
    """The same with other names of the tables, so that all cases have room in one migration."""
    names = re.compile(rf"\b({'|'.join(case.names)})\b")

    def named(text: str) -> str:
        return names.sub(rf"\g<1>_{number}", text)

    return Case(
        tables=named(case.tables),
        constraints=named(case.constraints),
        before=[*map(named, case.before)],
        transaction=[*map(named, case.transaction)],
        names=[*map(named, case.names)],
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("together", [True, False], ids=["at once", "in pieces"])
async def test_an_ordinary_transaction_is_written(database: Database, tmp_path: Path, together: bool) -> None:
    cases = {name: numbered(case, number) for number, (name, case) in enumerate(CASES.items())}
    migration = same_tables(
        tmp_path,
        database.dsn,
        " ".join(each.tables for each in cases.values()),
        "; ".join(each.constraints.rstrip("; ") for each in cases.values()) + ";",
        [name for each in cases.values() for name in each.names],
    )
    execute(database.dsn, [statement for each in cases.values() for statement in each.before])
    async with engine(database, migration, batch_rows=100 if together else 1) as made:
        await made.backfill()
        await made.build()
        for name, case in cases.items():
            execute(database.dsn, case.transaction)
            await made.drain()
            assert (name, quarantined(database.dsn)) == (name, [])
        assert await differences(made) == []


@pytest.mark.parametrize(
    "name", ["to one that takes over the unique name", "a circle that begins", "rooms are exchanged"]
)
async def test_and_so_it_is_where_all_tables_are_like_that(database: Database, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    migration = same_tables(tmp_path, database.dsn, case.tables, case.constraints, case.names)
    execute(database.dsn, case.before)
    async with engine(database, migration) as made:
        await made.backfill()
        await made.build()
        execute(database.dsn, case.transaction)
        await made.drain()
        assert quarantined(database.dsn) == []
        assert await differences(made) == []


async def test_a_row_that_another_one_gives_from_now_on_is_not_deleted_at_the_transactions_end(
    database: Database, tmp_path: Path
) -> None:
    """Its deletion would wait until then, for it may take children along."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "10_tables.sql").write_text(
        "CREATE SCHEMA shop; CREATE TABLE shop.pages (id integer PRIMARY KEY, slug text);"
        "CREATE TABLE shop.links (id integer PRIMARY KEY, page integer);"
    )
    (tmp_path / "new" / "30_constraints.sql").write_text(
        "ALTER TABLE shop.links ADD FOREIGN KEY (page) REFERENCES shop.pages (id) ON DELETE CASCADE;"
    )
    execute(
        database.dsn,
        [
            "CREATE TABLE pages (slug text PRIMARY KEY, id integer); CREATE TABLE links (id integer PRIMARY KEY)",
            "INSERT INTO pages VALUES ('a', 1), ('b', 2)",
        ],
    )
    migration = Migration("passing", old="public", new="shop", sql=tmp_path)
    migration.transform(source="pages", into="pages", name="page")(_as_it_is)
    migration.transform(source="links", into="links", key=lambda old: old["id"], name="link")(_as_it_is)
    async with engine(database, migration, batch_rows=2) as made:
        await made.backfill()
        await made.build()
        execute(
            database.dsn,
            [
                "UPDATE pages SET id = 3 - id",
                "INSERT INTO links VALUES (1), (2), (3), (4)",
            ],
        )
        await made.drain()
        assert quarantined(database.dsn) == []
        assert await differences(made) == []


@pytest.mark.parametrize("acts", ["", "ON UPDATE CASCADE"])
async def test_what_is_unique_changes_hands_among_rows_that_others_refer_to(
    database: Database, tmp_path: Path, acts: str
) -> None:
    """At one stroke, which the old table's constraint admits: there is no order of single changes."""
    migration = same_tables(
        tmp_path, database.dsn, PARENTS + CHILDREN, f"{UNIQUE} {REFERS} {acts};", ("parents", "children")
    )
    execute(
        database.dsn,
        [
            *FAMILY,
            "INSERT INTO parents VALUES (3, 'c')",
            "ALTER TABLE parents DROP CONSTRAINT parents_name_key; ALTER TABLE parents ADD UNIQUE (name) DEFERRABLE",
        ],
    )
    async with engine(database, migration) as made:
        await made.backfill()
        await made.build()
        execute(database.dsn, ["UPDATE parents SET name = CASE name WHEN 'a' THEN 'b' WHEN 'b' THEN 'c' ELSE 'a' END"])
        await made.drain()
        assert quarantined(database.dsn) == []
        assert await differences(made) == []
