"""Transactions in which the order of writing matters."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg


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
