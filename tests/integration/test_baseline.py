"""Probes on a real server: they are measured, cannot write, and a slower twin is named."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import Migration
from replicator.errors import MigrationError, NotReadyError, UsageError
from replicator.postgres.control import control
from replicator.postgres.session.connect import connection
from replicator.runbook.baseline import describe, measure, read_probes
from replicator.switchover.phases import Phase
from tests.acceptance.terminal import Terminal
from tests.checking import one_database
from tests.engine import create_old_tables, make_settings, reference
from tests.fix_postgres import Database, Running
from tests.programs import replicator
from tests.reference import seed

pytestmark = pytest.mark.two_servers

TABLES = """
CREATE TABLE things (id integer PRIMARY KEY, name text);
INSERT INTO things SELECT g, md5(g::text) FROM generate_series(1, 20000) g;
CREATE SCHEMA party;
CREATE TABLE party.things (id integer, name text);
INSERT INTO party.things SELECT * FROM things;
ANALYZE;
"""


@pytest.fixture
def one(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    """On one server only."""
    with one_database(request.config, _running) as made:
        with made.connect() as opened:
            opened.execute(TABLES.encode())
        yield made


def probing(folder: Path, **probes: tuple[str | None, str | None]) -> Migration:
    """A migration with these probes: the old query, and the new one."""
    for name, queries in probes.items():
        for side, query in zip(("old", "new"), queries, strict=True):
            (folder / "probes" / side).mkdir(parents=True, exist_ok=True)
            if query is not None:
                (folder / "probes" / side / f"{name}.sql").write_text(query)
    return Migration("party", old="public", new="party", sql=folder)


async def enter_phase(database: Database, phase: Phase) -> None:
    async with connection(database.dsn, "test") as opened:
        await control.install(opened, Migration("party", old="public", new="party"))
        await control.write_phase(opened, phase)


def silent(*_: Any) -> None:
    """Nobody watches."""


KEYED = ("SELECT name FROM public.things WHERE id = 77", "SELECT name FROM party.things WHERE id = 77")
SAME = ("SELECT count(*) FROM public.things", "SELECT count(*) FROM public.things;  -- the same")


async def test_a_twin_without_its_index_is_slower_and_one_that_is_the_same_is_not(
    one: Database, tmp_path: Path
) -> None:
    await enter_phase(one, Phase.FOLLOW)
    migration = probing(tmp_path, keyed=KEYED, same=SAME)
    probes = await measure(make_settings(one), migration, 20, silent, silent, compare=True)
    keyed, same = probes
    assert (keyed.name, keyed.slower) == ("keyed", True)
    assert (same.name, same.slower) == ("same", False)
    assert keyed.new is not None
    assert keyed.old.plan.nodes == ("Index Scan using things_pkey on things",)
    assert keyed.new.plan.nodes == ("Seq Scan on things",)
    assert keyed.new.plan.buffers > keyed.old.plan.buffers
    assert (len(keyed.old.runs), len(keyed.new.runs)) == (20, 20)
    assert "runs_ms" not in describe(probes, plans=False)[0]["old"]


async def test_the_new_tables_are_looked_at_only_to_compare(one: Database, tmp_path: Path) -> None:
    migration = probing(tmp_path, keyed=(KEYED[0], "SELECT * FROM party.not_there_yet"))
    (probe,) = await measure(make_settings(one), migration, 3, silent, silent, compare=False)
    assert (probe.new, probe.slower, len(probe.old.runs)) == (None, False, 3)
    with pytest.raises(NotReadyError, match="No migration has been started here"):
        await measure(make_settings(one), migration, 20, silent, silent, compare=True)
    await enter_phase(one, Phase.FOLLOW)
    with pytest.raises(MigrationError, match=r"sql/probes/new/keyed\.sql failed: .*not_there_yet"):
        await measure(make_settings(one), migration, 20, silent, silent, compare=True)
    with pytest.raises(UsageError, match="6 runs"):
        await measure(make_settings(one), migration, 6, silent, silent, compare=True)


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM public.things",
        "WITH gone AS (DELETE FROM public.things RETURNING *) SELECT * FROM gone",
        "SELECT setval('counted', 5)",
        "COMMIT",
        "SELECT 1; DELETE FROM public.things",
        "-- nothing",
    ],
)
async def test_a_probe_cannot_write(one: Database, tmp_path: Path, query: str) -> None:
    with one.connect() as opened:
        opened.execute("CREATE SEQUENCE counted")
        with pytest.raises(MigrationError, match="probe"):
            await measure(
                make_settings(one), probing(tmp_path, it=(query, query)), 3, silent, silent, compare=False
            )  # fmt: skip
        assert opened.execute("SELECT count(*) FROM things").fetchone() == (20000,)
        assert opened.execute("SELECT last_value FROM counted").fetchone() == (1,)


@pytest.mark.parametrize("side, missing", [(0, "new/it.sql"), (1, "old/it.sql")])
def test_a_missing_twin_is_named(tmp_path: Path, side: int, missing: str) -> None:
    queries: list[str | None] = [None, None]
    queries[side] = "SELECT 1"
    (tmp_path / "probes" / "old").mkdir(parents=True)
    with pytest.raises(MigrationError) as refused:
        read_probes(probing(tmp_path, it=(queries[0], queries[1])))
    assert str(tmp_path / "probes" / missing) in refused.value.problem


def test_without_probes_it_says_how_to_write_them(tmp_path: Path) -> None:
    with pytest.raises(MigrationError) as refused:
        read_probes(Migration("party", old="public", new="party", sql=tmp_path))
    assert "sql/probes/old/NAME.sql" in refused.value.remedy


async def test_tables_without_statistics_are_named(one: Database, tmp_path: Path) -> None:
    await enter_phase(one, Phase.SOAK)
    with one.connect() as opened:
        opened.execute("CREATE TABLE party.fresh AS SELECT * FROM things; CREATE TABLE party.empty ()")
    notes: list[str] = []
    await measure(make_settings(one), probing(tmp_path, same=SAME), 7, silent, notes.append, compare=True)
    (note,) = notes
    assert "party.fresh." in note
    assert "party.empty" not in note


async def test_the_reference_migrations_probes_run_on_both_sides(database: Database) -> None:
    seed(database.dsn)
    sql = Path(__file__).parents[2] / "sql" / "new"
    with database.connect() as opened:
        opened.execute((sql / "10_tables.sql").read_bytes())
    await enter_phase(database, Phase.FOLLOW)
    probes = await measure(make_settings(database), reference(), 7, silent, silent, compare=True)
    assert len(probes) == 8
    assert {each.name for each in probes if not each.old.plan.rows} == {"login"}


async def test_the_command(one: Database, tmp_path: Path) -> None:
    create_old_tables(one.dsn)
    file = tmp_path / "found.json"
    code, shown, errors = await replicator(one, "baseline", "--runs", "3", "--to", str(file))
    assert code == 0
    assert shown.splitlines()[0].split() == ["probe", "old", "ms", "p95", "blocks"]
    assert shown.splitlines()[-1] == f"8 probes measured. Plans and runs are in {file}."
    assert errors == "reading plans\nrunning the probes\n"
    document = json.loads(file.read_text())
    assert [len(each["old"]["runs_ms"]) for each in document["probes"]] == [3] * 8
    assert all(each["old"]["plan"][0]["Plan"] for each in document["probes"])
    code, shown, _ = await replicator(one, "baseline", "--compare", "--json")
    assert (code, json.loads(shown)["kind"]) == (3, "not_ready")


async def test_the_command_fails_and_shows_both_plans(one: Database, tmp_path: Path) -> None:
    await enter_phase(one, Phase.FOLLOW)
    probing(tmp_path, keyed=KEYED)
    (tmp_path / "probing.py").write_text(
        "from pathlib import Path\nfrom replicator import Migration\n"
        f"migration = Migration('party', old='public', new='party', sql=Path({str(tmp_path)!r}))\n"
    )
    done = Terminal(tmp_path, {"source_dsn": one.dsn, "migration": "probing:migration"}).run("baseline", "--compare")
    assert done.code == 1
    assert (tmp_path / "comparison.json").exists()
    lines = done.output.splitlines()
    assert lines[2].startswith("  keyed, old: Index Scan using things_pkey on things; ")
    assert lines[3].startswith("  keyed, new: Seq Scan on things; ")
    assert lines[4].startswith("1 query of 1 slower: keyed (")
    with one.connect() as opened:
        row = opened.execute("SELECT details FROM _replicator.journal WHERE event = 'baseline'").fetchone()
    assert row is not None
    assert row[0]["slower"] == ["keyed"]  # type: ignore[index]
