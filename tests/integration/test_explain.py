"""``replicator explain``: where everything goes, seen in the catalogues and in the first rows; nothing is kept."""

import json
from dataclasses import asdict
from pathlib import Path

import psycopg
import pytest

from replicator.cli.explain_command import view
from replicator.cli.explain_drawings import as_html, as_mermaid, edges
from replicator.demo.seed import seed
from replicator.migration import Migration
from replicator.runbook.explaining import Explanation, OldColumn, explain
from tests.engine import make_settings, reference
from tests.fix_postgres import Database
from tests.rendering import rendered
from tests.small import create_small, small_migration

pytestmark = pytest.mark.one_server

PEOPLE = "INSERT INTO people VALUES (1, 'ann', '30', '#a #b')"
OTHERS = """
CREATE TABLE gone (id integer PRIMARY KEY);
CREATE TABLE stays (id integer PRIMARY KEY);
CREATE VIEW names AS SELECT name FROM people;
"""


@pytest.fixture
def migration(database: Database, tmp_path: Path) -> Migration:
    create_small(database.dsn, PEOPLE, OTHERS)
    made = small_migration(tmp_path)
    made.retire("gone", because="nobody <uses> it")
    return made


async def explained(database: Database, migration: Migration) -> Explanation:
    found = await explain(make_settings(database), migration)
    with psycopg.connect(database.dsn) as there:
        assert there.execute("SELECT to_regnamespace('store'), to_regnamespace('_replicator')").fetchone() == (
            None,
            None,
        )
    return found


def columns(found: Explanation, table: str) -> dict[str, OldColumn]:
    (one,) = [each for each in found.tables if each.name == table]
    return {each.name: each for each in one.columns}


async def test_tables_and_columns(database: Database, migration: Migration) -> None:
    with psycopg.connect(database.dsn) as old:
        old.execute("ALTER TABLE people ADD unused text")
    found = await explained(database, migration)
    assert {each.name: (each.fate, each.into, each.because) for each in found.tables} == {
        "gone": ("retired", [], "nobody <uses> it"),
        "people": ("transformed", ["people", "tags", "homes"], ""),
        "pets": ("read", ["homes"], ""),
        "stays": ("left", [], ""),
    }
    people = columns(found, "people")
    assert people["note"].by == ["person", "tags"]
    assert people["name"].by == ["person"]
    assert people["id"].by == ["person", "tags", "query"]
    assert (people["unused"].fate, people["unused"].by) == ("unread", [])
    assert columns(found, "pets")["name"].by == ["query"]


async def test_transforms_and_queries(database: Database, migration: Migration) -> None:
    found = await explained(database, migration)
    steps = {(each.name, each.direction): each for each in found.steps}
    assert (steps["person", "forward"].key, steps["tags", "forward"].key) == ("computed", "remembered")
    assert steps["person", "forward"].writes == ["id", "name", "age", "note"]
    assert steps["tags", "forward"].reads == ["id", "note"]
    assert (steps["old_person", "reverse"].source, steps["old_person", "reverse"].into) == ("people", "people")
    (query,) = found.queries
    assert query.tables == {"people": ["id"], "pets": ["id", "name", "owner"]}
    assert query.depends_on == {"people": "the row whose key is its id", "pets": "all rows"}


async def test_the_cutover_and_its_locks(database: Database, migration: Migration) -> None:
    found = await explained(database, migration)
    assert found.consequences is not None
    assert [each.step for each in found.consequences.locks][:2] == ["hold the writers", "move"]
    assert any("view public.names" in each.what for each in found.consequences.hanging)


async def test_an_empty_table_says_nothing_of_what_is_read(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn)
    found = await explained(database, small_migration(tmp_path))
    assert columns(found, "people")["note"].fate == "unknown"


async def test_a_copy_says_where_each_column_goes(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, PEOPLE)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "10_tables.sql").write_text(
        "CREATE SCHEMA IF NOT EXISTS store; "
        "CREATE TABLE IF NOT EXISTS store.persons (id integer PRIMARY KEY, called text, age int)"
    )
    migration = Migration("copies", old="public", new="store", sql=tmp_path)
    migration.copy(
        "people",
        into="persons",
        rename={"name": "called"},
        cast={"age": "integer"},
        drop=["note"],
        back={"age": "text"},
    )
    found = await explained(database, migration)
    people = columns(found, "people")
    assert people["name"].to == {"persons": "called"}
    assert (people["note"].fate, people["note"].because) == ("retired", "the copy into persons drops it")


@pytest.mark.parametrize("shown", ["text", "json", "mermaid", "html"])
async def test_each_form_names_everything(database: Database, migration: Migration, shown: str) -> None:
    found = await explained(database, migration)
    forms = {
        "text": lambda: rendered(view(found)),
        "json": lambda: json.dumps(asdict(found)),
        "mermaid": lambda: as_mermaid(found),
        "html": lambda: as_html(found),
    }
    text = forms[shown]()
    for name in ("people", "pets", "gone", "stays", "tags", "homes", "person", "home"):
        assert name in text, name
    if shown == "html":
        assert "<uses>" not in text
        assert "nobody &lt;uses&gt; it" in text
        assert "http" not in text, "nothing is loaded"
        assert text.count("<path d=") == len(edges(found))
    if shown == "mermaid":
        assert text.startswith("flowchart LR\n")
        assert text.count("-->") == len(edges(found))


async def test_the_reference_migration(database: Database) -> None:
    with psycopg.connect(database.dsn) as old:
        seed(old, reference().folder(), 50)
    found = await explained(database, reference())
    fates = {each.name: each.fate for each in found.tables}
    assert fates == {name: fates[name] for name in fates if fates[name] in ("transformed", "read", "retired")}
    unread = [(table.name, each.name) for table in found.tables for each in table.columns if each.fate == "unread"]
    assert unread == []
