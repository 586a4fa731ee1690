"""The checks of a migration: what is forgotten, what is wrong, and what sample rows show of its transforms."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import ALL, Lookup, Migration, Query, Row
from replicator.postgres.control.control import install, write_phase
from replicator.postgres.session.connect import connection
from replicator.preflight import Finding
from tests.checking import TOTALS, Found, check, follow_remedy, one_database, outcomes, tiny, totals
from tests.fix_postgres import Database, Running


@pytest.fixture
def old(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    with one_database(request.config, _running) as made:
        yield made


def only_failure(found: Found) -> Finding:
    (name,) = outcomes(found, "fail")
    return found[name]


# ---- what is forgotten


async def test_every_old_table_is_accounted_for(old: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path, omit={"stay", "total", "old_visit"})
    migration.retired = {"trahs": "a slip of the pen", "people": "transformed too"}
    finding = only_failure(await check(old, migration))
    assert finding.check == "old_tables.coverage"
    assert "either transformed, nor retired, nor left: trash, visits" in finding.detail
    assert "retired, but not there: trahs" in finding.detail
    assert "both transformed and retired: people" in finding.detail
    assert 'migration.retire("visits", because="...")' in finding.remedy

    migration.retired = {}
    migration.retire("trash", because="it is trash")
    migration.retire("visits", because="nobody visits")
    assert outcomes(await check(old, migration), "fail") == set()


async def test_columns_that_no_transform_reads(old: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path, omit={"person", "total", "old_person"})

    @migration.transform(source="people", into="persons", key=lambda old: old["id"])
    def forgetful(old: Row) -> dict[str, object]:
        return {"full_name": old.get("name")}

    query = "SELECT id, name, length(note) AS size FROM old.people"

    @migration.transform(source=Query(query, key=["id"], depends_on={"people": ["id"]}), into="totals")
    def total(old: Row) -> dict[str, object]:
        return {"person_id": old["id"], "hours": len(old["name"])}

    @migration.reverse(source="persons", into="people", key=lambda new: new["id"])
    def old_person(new: Row) -> dict[str, object]:
        return {"name": dict(new)["full_name"]}

    with old.connect() as connected:
        connected.execute("ALTER TABLE old.visits ADD mood text")
    found = await check(old, migration)
    assert outcomes(found, "fail") == set()
    detail = found["forward.unread_columns"].detail
    assert "visits.mood" in detail
    assert "size of the query query" in detail
    assert "people" not in detail, "the query reads the note"
    assert found["reverse.unread_columns"].outcome == "pass", "a row taken whole is read whole"


async def test_a_query_that_takes_whole_rows_reads_every_column(old: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path, omit={"person", "total", "old_person"})
    query = "SELECT p.id, to_jsonb(p) AS doc FROM old.people p"

    @migration.transform(source=Query(query, key=["id"], depends_on={"people": ["id"]}), into="persons")
    def person(old: Row) -> dict[str, object]:
        return {"id": old["id"], "full_name": old["doc"]}

    found = await check(old, migration)
    assert found["forward.unread_columns"].outcome == "pass"


# ---- what is wrong


async def test_new_tables_that_cannot_be_made(old: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path)
    tables = tmp_path / "new" / "10_tables.sql"
    good = tables.read_text()
    tables.write_text(good.replace("full_name text", "full_name txet"))
    finding = only_failure(await check(old, migration))
    assert finding.check == "new_tables.definition"
    assert "txet" in finding.detail
    assert "new.persons" in finding.detail

    tables.write_text(f"BEGIN; {good} COMMIT;")
    assert "sql/new holds the statement BEGIN" in only_failure(await check(old, migration)).detail
    tables.write_text(good.replace("new.totals", "new.sums"))
    assert "there is no target table new.totals" in only_failure(await check(old, migration)).detail
    tables.unlink()
    assert only_failure(await check(old, migration)).check == "new_tables.definition"


async def test_indexes_and_constraints_that_would_fail_after_the_backfill(old: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path)
    (tmp_path / "new" / "30_constraints.sql").write_text("ALTER TABLE new.stays ADD CONSTRAINT c CHECK (hour > 0);")
    finding = only_failure(await check(old, migration))
    assert finding.check == "new_tables.constraints"
    assert "hour" in finding.detail

    (tmp_path / "new" / "30_constraints.sql").write_text("")
    with old.connect() as connected:
        connected.execute("UPDATE old.people SET name = 'Ada'")
    finding = only_failure(await check(old, migration))
    assert finding.check == "new_tables.constraints"
    assert "persons_name" in finding.detail, "a unique index over values that are not"


async def test_transforms_that_do_not_fit_the_tables(old: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path, omit={"stay"})

    @migration.transform(source="visit", into="stay")
    def stay(old: Row) -> dict[str, object]:
        return {}

    found = await check(old, migration)
    assert {"forward.transforms", "new_tables.definition"} & outcomes(found, "fail")
    assert "reverse.transforms" not in outcomes(found, "fail")


async def test_a_migration_without_a_way_back(old: Database, tmp_path: Path) -> None:
    finding = only_failure(await check(old, tiny(tmp_path, omit={"old_person", "old_visit"})))
    assert finding.check == "reverse.transforms"


async def test_queries(old: Database, tmp_path: Path) -> None:
    async def with_total(source: Query) -> Found:
        migration = tiny(tmp_path, omit={"total"})

        @migration.transform(source=source, into="totals", key=lambda old: old["id"])
        def total(old: Row) -> dict[str, object]:
            return {"person_id": old["id"], "hours": old["hours"]}

        return await check(old, migration)

    finding = only_failure(await with_total(Query(TOTALS, key=["id"], depends_on={"people": ["id"]})))
    assert finding.check == "forward.queries"
    assert "the query query reads old.visits" in finding.detail

    with old.connect() as connected:
        connected.execute("CREATE VIEW old.hours AS SELECT person AS id, hours FROM old.visits")
    through_view = Query("SELECT DISTINCT ON (id) * FROM old.hours", key=["id"], depends_on={"people": ALL})
    assert "old.visits" in only_failure(await with_total(through_view)).detail

    every_visit = "SELECT person AS id, hours FROM old.visits"
    finding = only_failure(await with_total(Query(every_visit, key=["id"], depends_on={"visits": ALL})))
    assert finding.check == "forward.sample"
    assert "returns 1 key more than once" in finding.detail

    nulls = "SELECT nullif(id, 2) AS id, id AS hours FROM old.people"
    finding = only_failure(await with_total(Query(nulls, key=["id"], depends_on={"people": ALL})))
    assert "returns rows with a NULL in their key (id)" in finding.detail

    assert outcomes(await with_total(totals("SELECT nothing")), "fail") == {"forward.transforms"}


@pytest.mark.parametrize(
    "sql, problem",
    [
        ("SELECT id FROM old.people WHERE id = %(persn)s", "names persn, which old.visits has not"),
        ("SELECT id FROM old.poeple WHERE id = %(person)s", "does not run"),
        ("SELECT id, name FROM old.people WHERE id = %(person)s", "returns 2 columns, the key has 1"),
    ],
)
async def test_lookups_that_do_not_work(old: Database, tmp_path: Path, sql: str, problem: str) -> None:
    finding = only_failure(await check(old, looking_up(tmp_path, sql)))
    assert finding.check == "forward.lookups"
    assert problem in finding.detail


async def test_a_lookup_that_the_log_does_not_feed(old: Database, tmp_path: Path) -> None:
    migration = looking_up(tmp_path, "SELECT id FROM old.people WHERE id = %(person)s")
    finding = only_failure(await check(old, migration))
    assert finding.check == "forward.lookups"
    follow_remedy(old.dsn, finding)
    assert outcomes(await check(old, migration), "fail") == set()


def looking_up(folder: Path, sql: str) -> Migration:
    migration = tiny(folder, omit={"total"})
    source = Query(TOTALS, key=["id"], depends_on={"people": ["id"], "visits": Lookup(sql)})

    @migration.transform(source=source, into="totals", key=lambda old: old["id"])
    def total(old: Row) -> dict[str, object]:
        return {"person_id": old["id"], "hours": old["hours"]}

    return migration


# ---- what sample rows show


@pytest.mark.parametrize(
    "row, problem",
    [
        ({"full_nam": "x"}, "full_nam, which new.persons does not have"),
        ({"id": 9, "full_name": "x"}, "returns another id than its key="),
        ({"full_name": None}, 'null value in column "full_name"'),
        ({"full_name": {1}}, "returns a set for new.persons.full_name"),
        ("no row", "returned a str"),
        ([{"full_name": "x"}, {"full_name": "y"}], "returns several rows"),
    ],
)
async def test_transforms_that_no_row_survives(
    old: Database, tmp_path: Path, row: dict[str, object], problem: str
) -> None:
    migration = tiny(tmp_path, omit={"person"})

    @migration.transform(source="people", into="persons", key=lambda old: old["id"])
    def person(old: Row) -> dict[str, object]:
        return row

    finding = only_failure(await check(old, migration))
    assert finding.check == "forward.sample"
    assert problem in finding.detail
    assert "person" in finding.detail


async def test_a_transform_that_some_rows_do_not_survive(old: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path, omit={"person"})

    @migration.transform(source="people", into="persons", key=lambda old: old["id"])
    def person(old: Row) -> dict[str, object]:
        return {"full_name": old["name"], "note": old["note"].upper()}

    found = await check(old, migration)
    assert found["forward.sample"].outcome == "warn", "what is refused goes into quarantine"
    assert "The transform person fails on 2 of 3 rows of people, first: " in found["forward.sample"].detail
    assert "AttributeError" in found["forward.sample"].detail

    with old.connect() as connected:
        connected.execute("UPDATE old.people SET note = NULL")
    assert only_failure(await check(old, migration)).check == "forward.sample"
    async with connection(old.dsn, "test") as control:
        await install(control, migration)
        await write_phase(control, "follow")
    later = await check(old, migration)
    assert outcomes(later, "fail") == set(), "once it runs, such rows are in quarantine: no reason to refuse a restart"
    assert later["forward.sample"].outcome == "warn"


async def test_two_rows_into_one(old: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path, omit={"person"})

    @migration.transform(source="people", into="persons")
    def person(old: Row) -> dict[str, object]:
        return {"id": old["id"] // 2, "full_name": old["name"], "note": old["note"]}

    found = await check(old, migration)
    assert found["forward.sample"].outcome == "warn"
    assert "Two source rows produce the same row ['1'] of new.persons" in found["forward.sample"].detail


async def test_a_way_back_that_does_not_work_is_seen_before_the_start(old: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path, omit={"old_person"})

    @migration.reverse(source="persons", into="people", key=lambda new: new["id"])
    def old_person(new: Row) -> dict[str, object]:
        return {"name": new["name"]}

    finding = only_failure(await check(old, migration))
    assert finding.check == "reverse.sample"
    assert "KeyError" in finding.detail


async def test_a_transform_that_is_not_deterministic(old: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path, omit={"person"})

    @migration.transform(source="people", into="persons", key=lambda old: old["id"])
    def person(old: Row) -> dict[str, object]:
        return {"full_name": old["name"] + str(random.random()), "note": old["note"]}

    finding = only_failure(await check(old, migration))
    assert finding.check == "forward.deterministic"
    assert "person" in finding.detail


async def test_sources_that_are_too_slow_are_not_tried(
    old: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.postgres.trying.rehearsal.SAMPLE_TIMEOUT", "1s")
    migration = tiny(tmp_path, omit={"total"})
    slow = totals("SELECT id, id AS hours FROM old.people, pg_sleep(5), (SELECT FROM old.visits LIMIT 1) v")

    @migration.transform(source=slow, into="totals", key=lambda old: old["id"])
    def total(old: Row) -> dict[str, object]:
        return {"person_id": old["id"], "hours": old["hours"]}

    found = await check(old, migration)
    assert found["forward.sample"].outcome == "warn"
    assert "Not tried: query: " in found["forward.sample"].detail
