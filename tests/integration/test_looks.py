"""The looks at tables take the same queries, and read each catalogue once, however many partitions there are."""

import asyncio
import inspect as reading
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.core.changes import Change, RelationName
from replicator.pipeline.setup import read_plan
from replicator.postgres.catalog import catalog, catalog_version, fingerprints, inspect
from replicator.postgres.session.connect import connection
from replicator.preflight import database_checks, facts, migration_checks, security, table_checks, write_checks
from replicator.preflight.finding import Verdict
from replicator.switchover.closing import close_again, keep_closed
from tests.engine import Engine, engine, execute, make_settings
from tests.fix_postgres import Database
from tests.roles import OLD as OLD_OF_ROLES
from tests.roles import identity, readme_roles
from tests.twins import OLD, twins
from tests.waiting import until

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
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 3_600.0)
    execute(database.dsn, [OLD])
    async with engine(database, twins(tmp_path)) as made:
        await made.backfill()
        pipeline = made.running
        looks: dict[str, Callable[[], Awaitable[Any]]] = {
            "definitions": pipeline.look_at_definitions,
            "ground": pipeline.monitor.look_at_ground,
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
        names = [RelationName("public", f"days_{number}") for number in range(20, 60)]
        async with connection(database.dsn, "test") as reader:
            asked.clear()
            await pipeline._applier._relations.resolve([Change(name, "truncate") for name in names], reader)
            assert len(asked) == 1


@pytest.mark.one_server
@pytest.mark.parametrize("query", ["RELATIONS", "DEFINITIONS", "LEAVES"])
def test_no_tree_is_climbed_for_each_table(database: Database, query: str) -> None:
    queries: dict[str, tuple[str, dict[str, Any]]] = {
        "RELATIONS": (inspect.RELATIONS, {"schema": "public", "triggers": True, "ours": []}),
        "DEFINITIONS": (fingerprints.TABLES, {"schema": "public", "tables": ["t", "days"], "publication": ""}),
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
    assert checks_of(security, "SecuritySubject") == {each.name for each in security.FACTS}
    told = {each.name for each in write_checks.FACTS if each.consequence == facts.Consequence.TELL}
    assert told == {"large_objects", "triggers", "cascades"}, "what is only told must be harmless: say why in the test"


def test_what_is_only_told_is_not_looked_at() -> None:
    def broken(_: object) -> Verdict | None:
        raise AssertionError

    assert facts.wrong("x", [facts.Fact(broken, facts.Consequence.TELL)], object()) == []


# ---- nothing that a look reads changes unnoticed

PLAIN = """
array_agg coalesce concat_ws convert_to count encode format jsonb_agg jsonb_build_array jsonb_build_object
jsonb_object_agg max position
quote_ident sha256 string_agg to_jsonb unnest
"""
READS: dict[str, set[str]] = {
    # What each function in our queries reads beside its arguments.
    **{name: set() for name in PLAIN.split()},
    "acldefault": set(),
    "aclexplode": set(),
    "format_type": {"pg_type"},
    "has_any_column_privilege": {"pg_class", "pg_attribute", "pg_authid", "pg_auth_members"},
    "has_column_privilege": {"pg_class", "pg_attribute", "pg_authid", "pg_auth_members"},
    "has_database_privilege": {"pg_database", "pg_authid", "pg_auth_members"},
    "has_function_privilege": {"pg_proc", "pg_authid", "pg_auth_members"},
    "has_schema_privilege": {"pg_namespace", "pg_authid", "pg_auth_members"},
    "has_sequence_privilege": {"pg_class", "pg_authid", "pg_auth_members"},
    "has_table_privilege": {"pg_class", "pg_authid", "pg_auth_members"},
    "pg_describe_object": {"pg_class", "pg_proc", "pg_type", "pg_namespace"},  # of what our schemas hold
    "pg_get_expr": {"pg_attribute", "pg_class", "pg_collation", "pg_proc", "pg_type"},
    "pg_get_userbyid": {"pg_authid"},
    "pg_has_role": {"pg_authid", "pg_auth_members"},
    "row_security_active": {"pg_class", "pg_authid"},
    "to_regclass": {"pg_class", "pg_namespace"},
    "to_regnamespace": {"pg_namespace"},
    "current_database": {"pg_database"},
    "getdatabaseencoding": set(),  # of a database for good
    # Whether sessions of others run as our role is only told, never a reason to do anything.
    "pg_stat_get_activity": set(),
}  # fmt: skip
ROLLING = "UPDATE _replicator.ownership SET rolling_since = clock_timestamp()"


def tables_and_functions(plan: Any) -> tuple[set[str], set[str]]:
    """All that a plan, as EXPLAIN (VERBOSE, FORMAT JSON) has it, reads and calls."""
    tables: set[str] = set()
    functions: set[str] = set()
    if isinstance(plan, list):
        for each in plan:
            found = tables_and_functions(each)
            tables, functions = tables | found[0], functions | found[1]
    elif isinstance(plan, dict):
        if "Relation Name" in plan:
            schema = plan["Schema"]
            tables.add(f"{'' if schema == 'pg_catalog' else schema + '.'}{plan['Relation Name']}")
        if "Function Name" in plan:
            functions.add(plan["Function Name"])
        for each in plan.values():
            found = tables_and_functions(each)
            tables, functions = tables | found[0], functions | found[1]
    elif isinstance(plan, str):
        functions |= set(re.findall(r"\b([a-z_][a-z0-9_]+)\(", re.sub("'[^']*'", "", plan)))
    return tables, functions


@pytest.mark.two_servers
async def test_no_look_reads_what_the_generation_does_not(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all queries of all looks, by their plans: also of a fact that will be written later."""
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 3_600.0)

    async def measuring(_: Any) -> None:
        """Once a second: no look."""

    monkeypatch.setattr("replicator.pipeline.source_monitor.SourceMonitor.measure", measuring)
    execute(database.dsn, [OLD])
    queries: list[tuple[str, Any]] = []
    looking = False
    run = psycopg.AsyncCursor.execute

    async def noting(cursor: Any, query: Any, given: Any = None, **named: Any) -> Any:
        text = query.as_string(cursor) if hasattr(query, "as_string") else query
        text = text.decode() if isinstance(text, bytes) else text
        if looking and re.match(r"\s*(SELECT|WITH)\b", text) and "set_config" not in text:
            queries.append((text, given))
        return await run(cursor, query, given, **named)

    async def rest(_: object) -> None:
        """It asks for the time and the position every second, whatever there is to look at."""

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", noting)
    async with engine(database, twins(tmp_path)) as made:
        await made.backfill()
        monkeypatch.setattr("replicator.pipeline.source_monitor.SourceMonitor.measure", rest)
        execute(database.dsn, [ROLLING])
        monkeypatch.setattr(made.running.context.policy, "both_write", True)
        looking = True
        await made.running.monitor.look_at_ground()
        await made.running.look_at_definitions()
        await close_again(made.settings, lambda: None)
        looking = False
    allowed = catalog_version.READ | {"_replicator.secrets"}  # written once, when the control tables are made
    with database.connect() as opened:
        for text, given in queries:
            ((plan,),) = opened.execute(f"EXPLAIN (VERBOSE, FORMAT JSON) {text}".encode(), given).fetchall()
            tables, functions = tables_and_functions(plan)
            assert tables <= allowed, text
            assert functions <= READS.keys(), text
            assert all(READS[each] <= allowed for each in functions), text
    assert len(queries) > 15


def subscribed(dsn: str) -> tuple[str, ...]:
    return (
        f"CREATE SUBSCRIPTION theirs CONNECTION '{dsn}' PUBLICATION theirs "
        "WITH (connect = false, enabled = false, slot_name = NONE)",
        "INSERT INTO pg_subscription_rel SELECT s.oid, 't'::regclass, 'i', NULL FROM pg_subscription s "
        "WHERE s.subname = 'theirs'",
        "DELETE FROM pg_subscription_rel WHERE srrelid = 't'::regclass",
        "DROP SUBSCRIPTION theirs",
    )


CHANGES: dict[str, tuple[str, ...]] = {
    "coverage": ("CREATE TABLE more (id integer)", "DROP TABLE more"),
    "encoding": (),  # a database's encoding stays
    "privileges": ("REVOKE TEMPORARY ON DATABASE {db} FROM PUBLIC", "GRANT TEMPORARY ON DATABASE {db} TO PUBLIC"),
    "control_tables": ("INSERT INTO _replicator.made VALUES ('slot', 's', 1)", "DELETE FROM _replicator.made",
                       "ALTER TABLE _replicator.lease RENAME epoch TO age"),
    "casts": (
        "CREATE TYPE mood AS ENUM ('ok')",
        "CREATE FUNCTION read(mood) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
        "ALTER FUNCTION read OWNER TO {role}",
        "CREATE CAST (mood AS text) WITH FUNCTION read(mood)",
        "DROP CAST (mood AS text)",
    ),
    "publication": (
        "CREATE PUBLICATION p FOR TABLE t",
        "ALTER PUBLICATION p SET (publish = 'insert')",
        "ALTER PUBLICATION p DROP TABLE t",
    ),
    "schema": ("REVOKE USAGE ON SCHEMA public FROM PUBLIC", "ALTER SCHEMA elsewhere RENAME TO afar",
               "ALTER SCHEMA afar RENAME TO elsewhere", "GRANT USAGE ON SCHEMA public TO PUBLIC"),
    "keys": ("ALTER TABLE t DROP CONSTRAINT t_pkey", "ALTER TABLE t ADD PRIMARY KEY (id)"),
    "replica_identity": (
        "ALTER TABLE days_1 REPLICA IDENTITY NOTHING",
        "ALTER TABLE t ALTER COLUMN v SET NOT NULL",
        "CREATE UNIQUE INDEX t_v ON t (v)",
        "CREATE UNIQUE INDEX t_other ON t (v, id)",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_v",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_other",
        "DROP INDEX t_other",
    ),
    "logged": ("ALTER TABLE t SET UNLOGGED", "ALTER TABLE t SET LOGGED"),
    "inheritance": ("CREATE TABLE elsewhere.child () INHERITS (t)", "ALTER TABLE elsewhere.child NO INHERIT t",
                    "CREATE TEMP TABLE passing () INHERITS (t)"),
    "partitions": ("CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM (10) TO (20)",
                   "ALTER TABLE days DETACH PARTITION days_2",
                   "ALTER TABLE days ATTACH PARTITION days_2 FOR VALUES FROM (10) TO (20)", "DROP TABLE days_2"),
    "log_values": ("ALTER TABLE t ADD COLUMN twice integer GENERATED ALWAYS AS (id * 2) STORED",
                   "ALTER TABLE t ALTER COLUMN twice DROP EXPRESSION"),
    "row_security": ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "ALTER TABLE t FORCE ROW LEVEL SECURITY",
                     "ALTER ROLE {role} BYPASSRLS", "ALTER ROLE {role} NOBYPASSRLS"),
    "policies": ("CREATE POLICY p ON t USING (true)", "ALTER POLICY p ON t TO {role}",
                 "ALTER POLICY p ON t RENAME TO q", "ALTER POLICY q ON t USING (false)", "DROP POLICY q ON t"),
    "grants": ("GRANT UPDATE (v) ON t TO {role}", "ALTER ROLE {role} LOGIN", "REVOKE UPDATE (v) ON t FROM {role}",
               "ALTER ROLE {role} NOLOGIN"),
    "read_privileges": ("GRANT SELECT ON t TO {role}", "REVOKE SELECT ON t FROM {role}",
                        "GRANT pg_read_all_data TO {role}", "REVOKE pg_read_all_data FROM {role}"),
    "write_privileges": ("CREATE SEQUENCE numbers", "ALTER SEQUENCE numbers OWNED BY t.id",
                         "REVOKE ALL ON SEQUENCE numbers FROM PUBLIC", "GRANT UPDATE ON SEQUENCE numbers TO {role}"),
    "ownership": ("ALTER TABLE t OWNER TO {role}", "ALTER ROLE {role} SUPERUSER", "ALTER ROLE {role} NOSUPERUSER",
                  "ALTER ROLE {role} NOINHERIT"),
    "guards": (
        "CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER replicator_guard BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION pass()",
        "ALTER TABLE t DISABLE TRIGGER replicator_guard",
        "ALTER TRIGGER replicator_guard ON t RENAME TO mine",
        "ALTER FUNCTION pass() SET SCHEMA elsewhere",
        "DROP TRIGGER mine ON t",
    ),
    "rules": ("CREATE RULE quiet AS ON DELETE TO t DO INSTEAD NOTHING", "ALTER TABLE t DISABLE RULE quiet",
              "ALTER RULE quiet ON t RENAME TO still", "DROP RULE still ON t"),
    "circles": ("ALTER TABLE t ADD COLUMN up integer REFERENCES t",
                "ALTER TABLE t ALTER CONSTRAINT t_up_fkey DEFERRABLE"),
    "definitions": (
        "ALTER TABLE t RENAME TO s", "ALTER TABLE s RENAME TO t", "ALTER TABLE t RENAME v TO w",
        "ALTER TABLE t RENAME w TO v", "TRUNCATE days_1", 'ALTER TABLE t ALTER v TYPE text COLLATE "C"',
        "ALTER TYPE mood ADD VALUE 'glad'", "ALTER TYPE mood RENAME VALUE 'glad' TO 'happy'",
        "CREATE TYPE place AS (town text)", "ALTER TYPE place ADD ATTRIBUTE land text",
        "ALTER TABLE t ALTER COLUMN v SET DEFAULT 'x'", "ALTER TABLE t ALTER COLUMN v DROP DEFAULT",
        "CLUSTER t USING t_pkey", "ALTER TABLE t RESET (fillfactor)",
    ),
    "closed": (
        "INSERT INTO _replicator.closed VALUES (1, 'new', 'public', 'shop')", "DELETE FROM _replicator.closed",
        "INSERT INTO _replicator.resting VALUES (1, 1, 'x', 'O')", "DELETE FROM _replicator.resting",
        ROLLING,
    ),
}  # fmt: skip
"""Of each fact, and of what else is looked at: statements that change what it reads, one after the other."""
TOLD_ONLY = {"triggers", "cascades", "large_objects", "own_role", "way_back"}
QUIET = (
    "VACUUM", "ANALYZE", "VACUUM FREEZE t", "VACUUM FREEZE pg_class", "UPDATE t SET v = v || '!'", "DELETE FROM t",
    "CREATE TEMP TABLE passing (id serial PRIMARY KEY, v text DEFAULT 'x')", "TRUNCATE passing", "DROP TABLE passing",
    "SELECT nextval('ids')", "CREATE TEMP VIEW seen AS SELECT 1",
)  # fmt: skip


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    name = f"{database.name}_looked"
    execute(database.dsn, [OLD, f"CREATE SCHEMA elsewhere; CREATE ROLE {name}"])
    yield name
    execute(database.dsn, [f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}"])


@pytest.mark.two_servers
async def test_every_change_of_what_a_fact_reads_is_noticed(database: Database, tmp_path: Path, role: str) -> None:
    every = {each.name: each.consequence for each in write_checks.FACTS}
    every |= {each.name: each.consequence for each in (*database_checks.FACTS, *database_checks.SCHEMA)}
    every |= {each.name: each.consequence for each in migration_checks.COVERAGE}
    every |= {each.name: each.consequence for each in security.FACTS}
    assert every.keys() <= CHANGES.keys() | TOLD_ONLY | {"subscriptions"}, "say of each new fact what changes it"
    assert {name for name, each in every.items() if each == facts.Consequence.TELL} == TOLD_ONLY
    await Engine(make_settings(database), twins(tmp_path)).make_tables()
    changes = {**CHANGES, "subscriptions": subscribed(database.dsn)}
    async with connection(database.dsn, "test") as reader:
        with database.connect() as opened:
            opened.execute("SET allow_system_table_mods = on")
            before = await catalog_version.read_generation(reader)
            for fact, statements in changes.items():
                for statement in statements:
                    opened.execute(statement.format(db=database.name, role=role).encode())
                    now = await catalog_version.read_generation(reader, before.since)
                    assert now.state != before.state, f"{fact}: {statement}"
                    before = await catalog_version.read_generation(reader)


@pytest.mark.two_servers
async def test_what_no_look_reads_makes_no_look(database: Database, tmp_path: Path, role: str) -> None:
    execute(database.dsn, ["CREATE SEQUENCE ids"])
    await Engine(make_settings(database), twins(tmp_path)).make_tables()
    async with connection(database.dsn, "test") as reader:
        with database.connect() as opened:
            opened.execute("SELECT pg_my_temp_schema(); CREATE TEMP TABLE first (id integer)")
            before = await catalog_version.read_generation(reader)
            for statement in QUIET:
                opened.execute(statement.encode())
                now = await catalog_version.read_generation(reader, before.since)
                assert now == before, statement


@pytest.mark.one_server
async def test_a_transaction_is_noticed_when_it_commits(database: Database, tmp_path: Path) -> None:
    """Whenever it began, also where a savepoint's own number is younger, and what came later is known already."""
    execute(database.dsn, [OLD])
    await Engine(make_settings(database), twins(tmp_path)).make_tables()
    async with connection(database.dsn, "test") as reader:
        for change in ("ALTER TABLE t ALTER v SET STATISTICS 7", "DROP INDEX IF EXISTS later", "CREATE TABLE late ()"):
            execute(database.dsn, ["CREATE INDEX IF NOT EXISTS later ON t (v)"])
            for end in ("ROLLBACK", "COMMIT"):
                with psycopg.connect(database.dsn) as slow:
                    slow.execute("SELECT pg_current_xact_id()")
                    execute(database.dsn, ["ALTER TABLE days_1 SET (fillfactor = 90)"])
                    before = await catalog_version.read_generation(reader)
                    slow.execute(f"SAVEPOINT inside; {change}; RELEASE SAVEPOINT inside".encode())
                    assert await catalog_version.read_generation(reader, before.since) == before
                    slow.execute(end.encode())
                    now = await catalog_version.read_generation(reader, before.since)
                    assert (now == before) == (end == "ROLLBACK"), change


@pytest.mark.one_server
async def test_the_daemons_role_may_read_it(database: Database, tmp_path: Path) -> None:
    with readme_roles(database, OLD_OF_ROLES) as roles:
        await Engine(roles.settings(), identity(tmp_path)).make_tables()
        async with connection(roles.dsn(roles.replicator), "test") as reader:
            before = await catalog_version.read_generation(reader)
            roles.superuser(f"ALTER ROLE {roles.replicator} BYPASSRLS")
            assert (await catalog_version.read_generation(reader, before.since)).state != before.state


# ---- when a look is made


@pytest.mark.one_server
async def test_looks_are_made_when_something_has_changed(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.02)
    execute(database.dsn, [OLD])
    async with engine(database, twins(tmp_path)) as made:
        await made.backfill()
        looks: list[str] = []
        unchanged = 0
        pipeline, changed = made.running, made.running.monitor.changed
        ground, found = pipeline.monitor.look_at_ground, pipeline.look_at_definitions

        async def at_ground(*given: Any) -> Any:
            looks.append("ground")
            return await ground(*given)

        async def at_definitions() -> None:
            looks.append("definitions")
            await found()

        async def counting() -> catalog_version.Reading | None:
            nonlocal unchanged
            reading = await changed()
            unchanged += reading is None
            return reading

        async def quiet() -> None:
            start = unchanged
            await until(lambda: unchanged >= start + 5)

        monkeypatch.setattr(pipeline.monitor, "look_at_ground", at_ground)
        monkeypatch.setattr(pipeline, "look_at_definitions", at_definitions)
        monkeypatch.setattr(pipeline.monitor, "changed", counting)
        await made.within(quiet())
        looks.clear()
        await made.within(quiet())
        assert looks == []
        for change in ("ALTER TABLE t ADD COLUMN more text", "CREATE TABLE elsewhere ()"):
            await asyncio.to_thread(execute, database.dsn, [change])
            await made.within(quiet())
            assert looks == ["definitions", "ground"], change
            looks.clear()
        pipeline.context.plan = replace(pipeline.context.plan)  # what is compared with has changed
        await made.within(quiet())
        assert looks == ["definitions", "ground"]
        monkeypatch.setattr(catalog_version, "LONGEST", 0.0)
        looks.clear()
        await until(lambda: len(looks) >= 4)  # after some time in any case


@pytest.mark.one_server
async def test_what_could_not_be_closed_is_looked_at_again(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    settings = make_settings(database)
    await Engine(settings, twins(tmp_path)).make_tables()
    looks = 0
    enough = asyncio.Event()

    async def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            enough.set()
        return looks >= 3

    keeping = asyncio.create_task(keep_closed(settings, 0.01, look))
    await asyncio.wait_for(enough.wait(), 60)
    async with connection(database.dsn, "test") as other:
        for _ in range(20):
            await other.execute("SELECT pg_sleep(0.01)")
    assert looks == 3
    await asyncio.to_thread(execute, database.dsn, ["ALTER TABLE t ADD COLUMN more text"])
    await until(lambda: looks >= 4)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
