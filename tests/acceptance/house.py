"""A small migration as a user has it: a database, and a folder with transforms."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replicator.demo.embedded import HOST, free_port
from tests.acceptance.terminal import Done, Terminal
from tests.fix_postgres import Database, Running, _choices, fresh_database

PASSWORD = "geheim-4711"

OLD = """
CREATE TABLE people (id integer PRIMARY KEY, name text, note text);
CREATE TABLE pets (id integer PRIMARY KEY, name text);
INSERT INTO people SELECT g, 'Name ' || g, 'note' FROM generate_series(1, 60) g;
INSERT INTO pets VALUES (1, 'Rex');
"""

NEW = """
CREATE SCHEMA IF NOT EXISTS store;
CREATE TABLE IF NOT EXISTS store.people (id integer PRIMARY KEY, name text NOT NULL, note text);
"""

TRANSFORMS = """
from replicator import Migration

migration = Migration("small", old="public", new="store")


@migration.transform(source="people", into="people", key=lambda old: old["id"])
def person(old):
    if old["note"] == "boom":
        raise LookupError(old["name"])
    return {"id": old["id"], "name": old["name"], "note": old["note"]}


@migration.reverse(source="people", into="people", key=lambda new: new["id"])
def old_person(new):
    return {"id": new["id"], "name": new["name"], "note": new["note"]}


migration.retire("pets", because="they stay at home")
"""


class House:
    """A database with the old tables, and a folder with the migration."""

    def __init__(self, dsn: str, folder: Path, **settings: str) -> None:
        self.dsn = dsn
        given = {"source_dsn": with_password(dsn), "http_listen": f"{HOST}:{free_port()}", "ready_for": "0.2"}
        self.terminal = Terminal(folder, given | settings)
        (folder / "sql" / "new").mkdir(parents=True)
        (folder / "sql" / "new" / "10_tables.sql").write_text(NEW)
        self.write_transforms(TRANSFORMS)

    def write_transforms(self, text: str) -> None:
        (self.terminal.folder / "transforms.py").write_text(text)

    def execute(self, statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connected:
            connected.execute(statements.encode())

    def rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True) as connected:
            return connected.execute(query.encode()).fetchall()

    def apart(self) -> list[int]:
        """The ids of the people that are not the same on both sides."""
        found = self.rows(
            "SELECT coalesce(o.id, n.id) FROM people o FULL JOIN store.people n ON n.id = o.id "
            "WHERE (o.name, o.note) IS DISTINCT FROM (n.name, n.note) ORDER BY 1"
        )
        return [each for (each,) in found]

    def quarantined(self) -> dict[str, int]:
        """As ``replicator status`` counts them."""
        return {each["transform"]: each["rows"] for each in self.terminal.json("status")["quarantined"]}

    def phase(self) -> str | None:
        """As the daemon has stored it."""
        there = self.rows("SELECT to_regclass('_replicator.state') IS NOT NULL")
        found = self.rows("SELECT phase FROM _replicator.state") if there == [(True,)] else []
        return str(found[0][0]) if found else None


def with_password(dsn: str) -> str:
    """The servers of the tests ask for none, mostly; but one that is given must not be shown."""
    return make_conninfo(dsn, password=conninfo_to_dict(dsn).get("password") or PASSWORD)


@contextlib.contextmanager
def fresh(config: pytest.Config, running: Running) -> Iterator[Database]:
    """A database on the first server there is: these cases are the same on all."""
    choices = _choices(config)
    if not choices:
        pytest.fail("No Postgres to test against was found.", pytrace=False)
    with fresh_database(running.server(choices[0])) as made:
        yield made


@pytest.fixture
def house(request: pytest.FixtureRequest, _running: Running, tmp_path: Path) -> Iterator[House]:
    with fresh(request.config, _running) as database:
        made = House(database.dsn, tmp_path, slot=database.name, plugin=database.plugin)
        made.execute(OLD)
        yield made


def statements(done: Done) -> list[str]:
    """The SQL of the remedies."""
    return re.findall(r"(?:ALTER SYSTEM|SELECT pg_reload_conf)[^;]*;", done.said)
