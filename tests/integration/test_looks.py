"""The looks at tables take the same queries, and read each catalogue once, however many partitions there are."""

import inspect as reading
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.changes import Change
from replicator.postgres import catalog, definitions, inspect
from replicator.postgres.connect import connection
from replicator.preflight import database_checks, facts, migration_checks, table_checks, write_checks
from replicator.preflight.finding import Verdict
from replicator.setup import read_plan
from tests.engine import engine, execute
from tests.fix_postgres import Database
from tests.integration.test_ground import OLD, twins

MORE = """
DO $$ BEGIN FOR i IN 20..80 LOOP
    EXECUTE format('CREATE TABLE days_%s PARTITION OF days FOR VALUES FROM (%s) TO (%s)', i, i, i + 1);
END LOOP; END $$
"""


OURS = {"replicator forward ground", "replicator catalogue", "replicator test"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that are run."""
    statements: list[str] = []
    execute = psycopg.AsyncCursor.execute

    async def noting(cursor: Any, query: Any, *given: Any, **named: Any) -> Any:
        if cursor.connection.info.parameter_status("application_name") in OURS:
            statements.append(str(query))
        return await execute(cursor, query, *given, **named)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", noting)
    return statements


@pytest.mark.one_server
async def test_the_number_of_queries_does_not_grow(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setattr("replicator.pipeline.LOOK_SECONDS", 3_600.0)
    execute(database.dsn, [OLD])
    async with engine(database, twins(tmp_path)) as made:
        await made.backfill()
        pipeline = made.running
        looks: dict[str, Callable[[], Awaitable[Any]]] = {
            "definitions": pipeline.look_at_definitions,
            "ground": pipeline.watch.look_at_ground,
            "plan": lambda: read_plan(made.settings, made.migration, "forward"),
        }
        counted: dict[str, list[int]] = {name: [] for name in looks}
        for more in ("SELECT", MORE):
            execute(database.dsn, [more])
            for name, look in looks.items():
                asked.clear()
                await look()
                counted[name].append(len(asked))
        assert all(few == many for few, many in counted.values()), counted
        names = [("public", f"days_{number}") for number in range(20, 60)]
        async with connection(database.dsn, "test") as reader:
            asked.clear()
            await pipeline._applier._relations.resolve([Change(name, "truncate") for name in names], reader)
            assert len(asked) == 1


@pytest.mark.one_server
@pytest.mark.parametrize("query", ["RELATIONS", "DEFINITIONS", "LEAVES"])
def test_no_tree_is_climbed_for_each_table(database: Database, query: str) -> None:
    queries: dict[str, tuple[str, dict[str, Any]]] = {
        "RELATIONS": (inspect.RELATIONS, {"schema": "public", "triggers": True, "ours": []}),
        "DEFINITIONS": (definitions.TABLES, {"schema": "public", "tables": ["t", "days"], "publication": ""}),
        "LEAVES": (catalog.LEAVES, {"oids": [1, 2]}),
    }
    text, given = queries[query]
    assert "pg_partition" not in text
    execute(database.dsn, [OLD, MORE])
    with database.connect() as opened:
        plan = "\n".join(str(row[0]) for row in opened.execute(f"EXPLAIN {text}".encode(), given))
    inherits = re.findall(r"(\w+ ?\w* Scan)[^\n]* on pg_inherits", plan)
    assert plan.count("Recursive Union") == 1
    assert len(inherits) <= 2, plan


# ---- the registry


def checks_of(module: Any, subject: str) -> set[str]:
    """Functions of a module that judge a subject."""
    return {
        name
        for name, each in reading.getmembers(module, reading.isfunction)
        if each.__module__ == module.__name__ and not name.startswith("_")
        and list(reading.signature(each).parameters) == ["subject"]
        and subject in str(next(iter(reading.signature(each).parameters.values())).annotation)
    }  # fmt: skip


@pytest.mark.one_server
def test_every_check_of_tables_and_databases_is_a_fact_with_a_consequence() -> None:
    registered = {each.name for each in write_checks.FACTS}
    before = {each.__name__ for each in write_checks.BEFORE_START}
    written = checks_of(table_checks, "TablesSubject") | checks_of(write_checks, "TablesSubject")
    assert written == registered | before
    assert before == {"too_early"}
    databases = {each.name for each in (*database_checks.FACTS, *database_checks.SCHEMA)}
    assert checks_of(database_checks, "DatabaseSubject") == databases
    assert checks_of(migration_checks, "CoverageSubject") == {each.name for each in migration_checks.COVERAGE}
    told = {each.name for each in write_checks.FACTS if each.consequence == facts.Consequence.TELL}
    assert told == {"large_objects", "triggers", "cascades"}, "what is only told must be harmless: say why in the test"


def test_what_is_only_told_is_not_looked_at() -> None:
    def broken(_: object) -> Verdict | None:
        raise AssertionError

    assert facts.wrong("x", [facts.Fact(broken, facts.Consequence.TELL)], object()) == []
