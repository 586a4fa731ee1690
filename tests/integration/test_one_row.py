"""``replicator try``: one old row, what it becomes, what is held, what comes back; nothing is kept."""

from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from replicator.cli.try_command import view
from replicator.demo.seed import seed
from replicator.errors import ReplicatorError, UsageError
from replicator.migration import Migration
from replicator.runbook.one_row import try_row
from replicator.runbook.row_report import Beside, OneRow
from tests.engine import engine, execute, make_settings, reference
from tests.fix_postgres import Database
from tests.rendering import rendered
from tests.small import TABLES, create_small, small_migration

pytestmark = pytest.mark.one_server

PEOPLE = """
INSERT INTO people VALUES
    (1, 'ann', '30', '#a #b'), (2, 'nobody', '1', NULL), (3, 'boom', '1', 'secret'), (4, 'old', '200', NULL)
"""
PASS = "SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets"
PETS = "INSERT INTO pets VALUES (1, 1, 'rex'), (2, 1, 'tom')"


async def tried(database: Database, migration: Migration, source: str, *key: str) -> OneRow:
    return await try_row(make_settings(database), migration, source, key)


@pytest.fixture
def migration(database: Database, tmp_path: Path) -> Migration:
    create_small(database.dsn, PEOPLE, PETS)
    return small_migration(tmp_path)


def rows(found: OneRow) -> dict[str, list[Beside]]:
    return {each.transform: each.rows for each in found.made}


async def test_before_the_new_tables_are_there(database: Database, migration: Migration) -> None:
    found = await tried(database, migration, "people", "1")
    assert found.old == {"id": "1", "name": "ann", "age": "30", "note": "#a #b"}
    made = rows(found)
    (person,) = made["person"]
    assert (person.table, person.key, person.state) == ("people", ("1",), "missing")
    assert [(each.column, each.wanted) for each in person.cells] == [
        ("id", "1"), ("name", "ann"), ("age", "30"), ("note", "#a #b"),
    ]  # fmt: skip
    assert [each.key for each in made["tags"]] == [("#a",), ("#b",)]
    (home,) = made["home"]
    assert [(each.column, each.wanted) for each in home.cells] == [("owner", "1"), ("pets", "{rex,tom}")]
    (back,) = found.back
    assert [(row.key, row.state) for row in back.rows] == [(("1",), "same")]
    assert (found.ok, found.comes_back, found.notes) == (True, True, [])
    with psycopg.connect(database.dsn) as there:
        assert there.execute("SELECT to_regnamespace('store'), to_regnamespace('_replicator')").fetchone() == (
            None,
            None,
        )


async def test_beside_what_the_new_tables_hold(database: Database, migration: Migration) -> None:
    async with engine(database, migration) as made:
        await made.backfill()
    execute(database.dsn, [PASS, "UPDATE store.people SET age = 31 WHERE id = 1"])
    found = await tried(database, migration, "people", "1")
    (person,) = rows(found)["person"]
    assert person.state == "different"
    assert [(each.column, each.wanted, each.found) for each in person.cells if each.differs] == [("age", "30", "31")]
    assert [each.state for each in rows(found)["tags"]] == ["same", "same"]
    assert "<> age" in rendered(view(found))


async def test_no_row_an_exception_and_a_refusal(database: Database, migration: Migration) -> None:
    none = await tried(database, migration, "people", "2")
    assert (rows(none)["person"], none.ok) == ([], True)
    raising = await tried(database, migration, "people", "3")
    error = next(each.error for each in raising.made if each.transform == "person")
    assert "LookupError" in error
    assert "['3'] at small.py:" in error
    assert not raising.ok
    refused = await tried(database, migration, "people", "4")
    (person,) = rows(refused)["person"]
    assert person.state == "refused"
    assert "people_age_check" in person.error
    assert not refused.ok
    assert "refused" in rendered(view(refused))


async def test_what_does_not_come_back(database: Database, migration: Migration) -> None:
    execute(database.dsn, ["UPDATE people SET age = '030' WHERE id = 1"])
    found = await tried(database, migration, "people", "1")
    ((row,),) = [each.rows for each in found.back]
    assert [(each.column, each.wanted, each.found) for each in row.cells if each.differs] == [("age", "30", "030")]
    assert (found.ok, found.comes_back) == (True, False)


async def test_a_row_of_a_query(database: Database, migration: Migration) -> None:
    (name,) = [each.source_name for each in migration.of("forward") if each.name == "home"]
    found = await tried(database, migration, name, "1")
    assert list(rows(found)) == ["home"]


async def test_a_table_that_only_a_query_reads(database: Database, migration: Migration) -> None:
    found = await tried(database, migration, "pets", "1")
    assert found.old == {"id": "1", "owner": "1", "name": "rex"}
    assert [(each.transform, each.key) for each in found.made] == [("home", ("1",))]


@pytest.mark.parametrize(
    ("source", "key", "error", "says"),
    [
        ("peopel", ["1"], UsageError, "No transform reads peopel. Name one of these: .*people, pets"),
        ("people", ["1", "2"], UsageError, r"The key of people is \(id\)"),
        ("people", ["one"], UsageError, "cannot be a key of people"),
        ("people", ["9"], ReplicatorError, "people has no row with this key"),
    ],
)
async def test_what_cannot_be_tried(
    database: Database, migration: Migration, source: str, key: list[str], error: type[ReplicatorError], says: str
) -> None:
    with pytest.raises(error, match=says):
        await tried(database, migration, source, *key)


async def test_each_source_of_the_reference_migration(database: Database) -> None:
    with psycopg.connect(database.dsn) as old:
        seed(old, reference().folder(), 300)
    async with engine(database, reference()) as made:
        await made.backfill()
        plan = made.running.context.plan
        for name in {*plan.sources, *plan.watched}:
            source = plan.sources.get(name)
            key = source.key if source else plan.watched[name].key
            query = source.query if source else None
            with psycopg.connect(database.dsn) as old:
                parts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(each)) for each in key)
                of = sql.SQL(f"({query})") if query else sql.Identifier("public", name)
                first = old.execute(sql.SQL("SELECT {} FROM {} AS q ORDER BY 1 LIMIT 1").format(parts, of)).fetchone()
            assert first is not None
            found = await tried(database, reference(), name, *first)
            assert (found.ok, found.comes_back, found.made != []) == (True, True, True), name
            assert {row.state for each in found.made for row in each.rows} == {"same"}, name


@pytest.mark.timeout(60)
async def test_new_tables_that_the_rehearsal_locks(database: Database, migration: Migration, tmp_path: Path) -> None:
    """They are there, empty, and a constraint is still to come: only the rehearsal itself can read them meanwhile."""
    execute(database.dsn, [TABLES])
    (tmp_path / "new" / "30_constraints.sql").write_text("ALTER TABLE store.people ADD CHECK (age > 0);")
    found = await tried(database, migration, "people", "1")
    assert [each.state for each in rows(found)["person"]] == ["missing"]
