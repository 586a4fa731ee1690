"""``replicator dry-run``: each planted fault is found with its keys, and nothing is kept."""

from pathlib import Path

import psycopg
import pytest

from replicator.postgres.trying.scratch import Conflict
from replicator.runbook.dry_run import DryRun, dry_run
from tests.acceptance.house import OLD, House
from tests.engine import engine, execute, make_settings
from tests.fix_postgres import Database
from tests.small import HOMES, create_small, small_migration

pytestmark = pytest.mark.one_server

GOOD = "INSERT INTO people SELECT i, 'p' || i, i::text, '#t' || i FROM generate_series(1, 120) i"
UNIQUE = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS people_lower ON store.people (lower(name)) WHERE age > 0;"


async def tried(
    database: Database,
    tmp_path: Path,
    *statements: str,
    sample: int | None = None,
    target: Database | None = None,
    indexes: str = UNIQUE,
) -> DryRun:
    create_small(database.dsn, GOOD, *statements)
    migration = small_migration(tmp_path)
    (tmp_path / "new" / "20_indexes.sql").write_text(indexes)
    told: list[tuple[str, int, int]] = []
    result = await dry_run(make_settings(database, target), migration, sample, lambda *step: told.append(step))
    assert told[-1][1] == result.rows
    for each in (database, target or database):
        with psycopg.connect(each.dsn) as there:
            assert there.execute("SELECT to_regnamespace('store'), to_regnamespace('replicator')").fetchone() == (
                None,
                None,
            )
    return result


def refused(result: DryRun) -> dict[str, list[tuple[str, ...]]]:
    return {each.transform: sorted(key for key, _ in each.examples) for each in result.transforms if each.refused}


def named(conflict: Conflict) -> tuple[str, str, str, int, list[set[tuple[str, tuple[str, ...]]]]]:
    return conflict.table, conflict.name, conflict.kind, conflict.count, [set(rows) for rows in conflict.examples]


@pytest.mark.two_servers
@pytest.mark.parametrize("apart", [False, True])
async def test_without_a_fault(database: Database, other_database: Database, tmp_path: Path, apart: bool) -> None:
    statements = ["INSERT INTO pets VALUES (1, 7, 'rex')", "INSERT INTO people VALUES (200, 'nobody', '1')"]
    result = await tried(database, tmp_path, *statements, target=other_database if apart else None)
    assert result.ok
    assert (result.conflicts, result.unread, result.notes) == ([], {}, [])
    counted = {each.transform: (each.rows, each.without_row, each.derived) for each in result.transforms}
    assert counted == {"person": (121, 1, 120), "tags": (121, 1, 120), "home": (1, 0, 1)}
    assert result.rows == result.rows_expected == 122
    assert result.backfill_seconds == pytest.approx(result.seconds)


FAULTS = {
    "raises": ("(500, 'boom', '1')", "raised LookupError"),
    "not null": ("(500, NULL, '1')", 'null value in column "name"'),
    "check": ("(500, 'old', '999')", "check constraint"),
    "value": ("(500, 'odd', 'twelve')", "column age"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_row_that_is_refused(database: Database, tmp_path: Path, fault: str) -> None:
    values, says = FAULTS[fault]
    result = await tried(database, tmp_path, f"INSERT INTO people VALUES {values}")
    assert not result.ok
    assert refused(result) == {"person": [("500",)]}
    (person,) = (each for each in result.transforms if each.transform == "person")
    ((_, error),) = person.examples
    assert says in error
    assert "twelve" not in error
    assert "secret" not in error
    assert person.refused == 1


async def test_rows_with_one_key(database: Database, tmp_path: Path) -> None:
    result = await tried(database, tmp_path, "INSERT INTO people VALUES (500, 'a', '1', '#t7')")
    assert not result.ok
    assert [named(each) for each in result.conflicts] == [
        ("tags", "tags_pkey", "unique", 1, [{("tags", ("7",)), ("tags", ("500",))}])
    ]


async def test_rows_with_one_unique_value(database: Database, tmp_path: Path) -> None:
    """By an index that is not there yet, on an expression, with a condition."""
    statement = "INSERT INTO people VALUES (500, 'P7', '1'), (501, 'P8', '0'), (502, 'Q', NULL), (503, 'Q', NULL)"
    result = await tried(database, tmp_path, statement)
    assert [named(each) for each in result.conflicts] == [
        ("people", "people_lower", "unique", 1, [{("person", ("7",)), ("person", ("500",))}])
    ]


async def test_a_row_whose_parent_is_not_there(database: Database, tmp_path: Path) -> None:
    """A foreign key that is not there yet; the parent exists among the old rows, and gives none."""
    statements = ["INSERT INTO people VALUES (200, 'nobody', '1')", "INSERT INTO pets VALUES (1, 200, 'rex')"]
    result = await tried(database, tmp_path, *statements)
    assert [named(each) for each in result.conflicts] == [
        ("homes", "homes_owner_fkey", "foreign key", 1, [{("home", ("200",))}])
    ]


async def test_columns_that_nobody_reads(database: Database, tmp_path: Path) -> None:
    result = await tried(database, tmp_path, "ALTER TABLE people ADD shoe_size integer")
    assert result.unread == {"people": ["shoe_size"]}
    assert result.ok, "it may be meant"


async def test_an_exclusion_constraint_is_said_not_to_be_tried(database: Database, tmp_path: Path) -> None:
    apart = "ALTER TABLE store.people ADD CONSTRAINT people_apart EXCLUDE (name WITH =);"
    result = await tried(database, tmp_path, indexes=apart)
    assert len(result.notes) == 1
    assert result.notes[0].startswith("Exclusion constraints were not tried: ")
    assert "people_apart" in result.notes[0]


async def test_a_sample(database: Database, tmp_path: Path) -> None:
    statements = ["INSERT INTO people VALUES (500, NULL, '1')", "INSERT INTO pets VALUES (1, 100, 'rex')"]
    result = await tried(database, tmp_path, *statements, "ANALYZE people", "ANALYZE pets", sample=10)
    assert result.ok, "the bad row is not in it, nor is the parent of the pet"
    assert [each.rows for each in result.transforms] == [10, 10, 1]
    assert result.rows_expected == 122
    assert any("Foreign keys were not tried" in note for note in result.notes)
    assert result.backfill_seconds == pytest.approx(result.seconds * 122 / 11)


async def test_while_the_migration_runs(database: Database, tmp_path: Path) -> None:
    """The new tables are filled and guarded: they are left alone."""
    create_small(database.dsn, GOOD, "INSERT INTO people VALUES (500, NULL, '1')")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        await made.build()
        result = await dry_run(made.settings, made.migration, None, lambda *_: None)
        assert refused(result) == {"person": [("500",)]}
        assert any("in use" in note for note in result.notes)
        with psycopg.connect(database.dsn) as there:
            assert there.execute("SELECT count(*) FROM store.people").fetchone() == (120,)
        execute(database.dsn, ["DELETE FROM people WHERE id = 500"])
        await made.drain()


async def test_many_bad_rows_are_counted_until_it_is_enough(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.runbook.dry_run.MOST_REFUSED", 20)
    monkeypatch.setattr("replicator.postgres.rows.streaming.GROUP_BYTES", 15_000)
    result = await tried(database, tmp_path, "UPDATE people SET age = '999'")
    (person,) = (each for each in result.transforms if each.transform == "person")
    assert person.gave_up
    assert 20 < person.refused < 120
    assert len(person.examples) == 5


async def test_no_lock_beyond_a_readers(database: Database, tmp_path: Path) -> None:
    """A foreign key to an old table would lock it: that is said, and left out."""
    create_small(database.dsn, GOOD)
    migration = small_migration(tmp_path)
    constraint = "ALTER TABLE store.tags ADD CONSTRAINT to_old FOREIGN KEY (person) REFERENCES public.people NOT VALID;"
    (tmp_path / "new" / "40_constraints.sql").write_text(constraint)
    locks: list[object] = []

    def look(*_: object) -> None:
        with psycopg.connect(database.dsn) as there:
            query = "SELECT DISTINCT mode FROM pg_locks WHERE relation IN ('people'::regclass, 'pets'::regclass)"
            locks.extend(there.execute(query).fetchall())

    result = await dry_run(make_settings(database), migration, None, look)
    assert set(locks) == {("AccessShareLock",)}
    assert any("locks an old table: ALTER TABLE store.tags" in note for note in result.notes)
    assert result.ok


def test_the_command(database: Database, tmp_path: Path) -> None:
    house = House(database.dsn, tmp_path)
    house.execute(OLD)
    shown = house.terminal.run("dry-run")
    assert shown.code == 0, shown.said
    assert "Nothing would fail." in shown.output
    assert "an estimate" in shown.output
    house.execute("UPDATE people SET name = NULL WHERE id = 7")
    found = house.terminal.run("dry-run", "--json")
    assert found.code == 1
    document = house.terminal.json("dry-run")
    assert document["transforms"][0]["examples"][0]["key"] == ["7"]
    assert document["ok"] is False
    said = house.terminal.run("dry-run")
    assert (said.code, 'people 7: Postgres refused a row: null value in column "name"' in said.output) == (1, True)


async def test_a_column_that_a_query_reads_is_read(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.small.HOMES", HOMES.replace("pets.owner GROUP", "pets.owner AND shoe_size > 0 GROUP"))
    result = await tried(database, tmp_path, "ALTER TABLE people ADD shoe_size integer, ADD hat_size integer")
    assert result.unread == {"people": ["hat_size"]}
