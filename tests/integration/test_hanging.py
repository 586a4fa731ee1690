"""What hangs on an old table, and what belongs to it: each is named before the cutover, or carried over."""

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from replicator.core.tables import Name
from replicator.postgres.catalog.dependents import Dependent, read_dependents
from replicator.postgres.locking.trees import oids_by_name
from replicator.postgres.session.connect import connection
from tests.checking import check
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import daemon
from tests.shop import NEW, OLD, fill, shop
from tests.statements import one

pytestmark = pytest.mark.one_server

HANGING = """
CREATE SCHEMA reports;
CREATE VIEW names AS SELECT id, tenant FROM orders;
CREATE VIEW reports."Old names" AS SELECT tenant FROM names WHERE id > 0;
CREATE MATERIALIZED VIEW totals AS SELECT tenant, sum(total) AS total FROM orders GROUP BY tenant;
CREATE FUNCTION largest() RETURNS integer STABLE BEGIN ATOMIC SELECT max(total) FROM orders; END;
CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN UPDATE orders SET total = total + 1 WHERE id = NEW.order_id; RETURN NULL; END';
CREATE TRIGGER counted AFTER INSERT ON comments FOR EACH ROW EXECUTE FUNCTION bump();
CREATE RULE noisy AS ON DELETE TO comments DO ALSO SELECT count(*) FROM orders;
ALTER TABLE comments ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON comments USING (EXISTS (SELECT FROM orders o WHERE o.id = order_id));
CREATE TABLE invoices (number integer DEFAULT nextval('orders_id_seq'), "row" orders);
CREATE PUBLICATION feed FOR TABLE orders;
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE PUBLICATION reporting FOR TABLES IN SCHEMA public;
CREATE FUNCTION unrelated() RETURNS text LANGUAGE sql AS 'SELECT ''reorders, orders_2''';
CREATE TABLE bills (id integer PRIMARY KEY, order_id integer REFERENCES orders);
"""


USES = """
    SELECT DISTINCT i.type || ' ' || i.identity || ' of ' || o.identity
    FROM pg_depend d CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
    CROSS JOIN LATERAL pg_identify_object(d.refclassid, d.refobjid, 0) o
    WHERE d.refclassid = 'pg_class'::regclass AND o.identity ~ '[.]orders(_old)?$'
      AND i.type IN ('rule', 'policy', 'function', 'materialized view')
"""


def uses(database: Database) -> set[str]:
    """Which views, rules, policies and functions read which of the tables."""
    with psycopg.connect(database.dsn) as opened:
        return {row[0] for row in opened.execute(USES.encode())}


def sql_of(remedy: str) -> list[str]:
    """The statements in a part of a remedy."""
    return [line for line in remedy.splitlines() if line.endswith(";")]


async def found_in(database: Database, *tables: str) -> list[Dependent]:
    async with connection(database.dsn, "test") as opened:
        oids = await oids_by_name(opened, [Name(schema="public", table=each) for each in tables])
        return await read_dependents(opened, {oid: name for name, oid in oids.items()})


async def test_whatever_hangs_on_a_table_is_found(database: Database) -> None:
    """And nothing else: not what belongs to it, nor a foreign key, nor a text in which the name is a part of a word."""
    execute(database.dsn, [OLD, HANGING])
    found = await found_in(database, "orders")
    assert {(str(each), each.level, each.hint) for each in found} == {
        ("default value for public.invoices.number", 1, False),
        ("function public.largest()", 1, False),
        ("materialized view public.totals", 1, False),
        ("policy visible on public.comments", 1, False),
        ("rule noisy on public.comments", 1, False),
        ('table column public.invoices."row"', 1, False),
        ("view public.names", 1, False),
        ('view reports."Old names"', 2, False),
        ("function public.bump()", 1, True),
        ("publication everything of all tables", 1, False),
        ("publication feed", 1, False),
        ("publication reporting of a schema", 1, False),
    }
    (bump,) = [each for each in found if each.hint]
    assert bump.called_by == ("counted on public.comments",)
    assert {each.identity for each in found if each.writable} == {"public.names", 'reports."Old names"'}
    assert {each.kind.split()[0] for each in await found_in(database, "comments")} == {"publication"}


async def test_tables_that_use_each_other_are_in_nobodys_way(database: Database) -> None:
    """What belongs to one of them goes with it."""
    execute(database.dsn, [OLD, HANGING])
    assert {str(each) for each in await found_in(database, "orders", "comments", "invoices")} == {
        "function public.largest()",
        "materialized view public.totals",
        "view public.names",
        'view reports."Old names"',
        "function public.bump()",
        "publication everything of all tables",
        "publication feed",
        "publication reporting of a schema",
    }


async def test_check_names_it_and_its_statements_do_it(database: Database, tmp_path: Path) -> None:
    """What check prints, put into the two folders, leaves nothing on the old table but what it says; and undoes it."""
    execute(database.dsn, [OLD, HANGING])
    before = uses(database)
    migration = shop(tmp_path)
    found = (await check(database, migration))["hanging.public.orders"]
    assert found.outcome == "warn"
    for said in (
        "From the cutover on public.orders takes no writes (RP002); it is kept in step until `replicator finalize`",
        'View public.names, view reports."Old names": goes on reading it; what is written through it is refused.',
        "Materialized view public.totals: reads it at each REFRESH.",
        "Function public.bump() (called by the trigger counted on public.comments): has its name in the text",
        "Publication feed: goes on publishing it",
    ):
        assert said in found.detail
    cutover, rollback = found.remedy.split("In sql/rollback:")
    fill(tmp_path, cutover=sql_of(cutover), rollback=sql_of(rollback))
    found = (await check(database, migration))["hanging.public.orders"]
    assert {line.split(":")[0] for line in found.detail.split(". ")[1:]} == {
        "Default value for public.invoices.number",
        'Table column public.invoices."row"',
        "Function public.bump() (called by the trigger counted on public.comments)",
        "Publication everything of all tables",
        "Publication reporting of a schema",
    }
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        await running.cut_over()
        execute(database.dsn, ["UPDATE shop.orders SET total = 100 WHERE id = 1"])
        assert one(database.dsn, "SELECT largest()") == 100
        execute(database.dsn, ["UPDATE names SET tenant = 'c' WHERE id = 1", "REFRESH MATERIALIZED VIEW totals"])
        assert one(database.dsn, "SELECT total FROM totals WHERE tenant = 'c'") == 100
        assert one(database.dsn, "SELECT count(*) FROM pg_publication_tables WHERE pubname = 'feed'") == 1
        assert uses(database) == {use.replace("public.orders", "shop.orders") for use in before}
        await running.clean()
        await running.roll_back()
        assert uses(database) == before


@pytest.mark.parametrize("strategy", ["schema", "rename"])
async def test_what_becomes_of_it(database: Database, tmp_path: Path, strategy: str) -> None:
    """What the sentences say, tried: what reads goes on with the old table, and what names it follows the name."""
    execute(database.dsn, [OLD, HANGING, "DROP PUBLICATION everything"])
    old, new = ("public.orders", "shop.orders") if strategy == "schema" else ("public.orders_old", "public.orders")
    async with daemon(make_settings(database), shop(tmp_path)) as running:
        await running.ready()
        before = uses(database)
        await running.cut_over(strategy=strategy)
        assert uses(database) == {use.replace("public.orders", old) for use in before}
        execute(database.dsn, [f"UPDATE {new} SET total = 100 WHERE id = 1"])
        await running.until(lambda: one(database.dsn, "SELECT largest()") == 100)
        assert one(database.dsn, "SELECT sum(total) FROM totals") == 3
        for statement in ("UPDATE names SET tenant = 'c'", 'DELETE FROM reports."Old names"'):
            with pytest.raises(psycopg.Error) as refused:
                execute(database.dsn, [statement])
            assert refused.value.sqlstate == "RP002"
        assert one(database.dsn, "SELECT tablename FROM pg_publication_tables WHERE pubname = 'feed'") in old
        in_schema = (
            "SELECT string_agg(tablename, ' ' ORDER BY 1) FROM pg_publication_tables WHERE pubname = 'reporting'"
        )
        assert "orders" in one(database.dsn, in_schema).split()
        counting = ["INSERT INTO comments VALUES (9, 1)"]
        if strategy == "schema":
            with pytest.raises(psycopg.Error) as refused:
                execute(database.dsn, counting)
            assert refused.value.sqlstate == "RP002"
        else:
            execute(database.dsn, counting)
            assert one(database.dsn, f"SELECT total FROM {new} WHERE id = 1") == 101


async def test_a_view_that_cannot_simply_be_turned(database: Database, tmp_path: Path) -> None:
    """Of other types, it is made anew with all that was on it; where the new table lacks a column, check says so."""
    role = f"{database.name}_reader"
    execute(
        database.dsn,
        [
            OLD,
            f"CREATE ROLE {role}",
            "CREATE VIEW ids WITH (security_barrier) AS SELECT id FROM orders",
            f"GRANT SELECT ON ids TO {role}",
            "COMMENT ON VIEW ids IS 'it''s'",
            "CREATE VIEW sums AS SELECT total FROM orders",
        ],
    )
    try:
        migration = shop(tmp_path, NEW.replace("id integer", "id bigint").replace("total integer", "amount integer"))
        forward, back = migration.transforms
        migration.transforms = [
            replace(forward, function=lambda old: {"id": old["id"], "tenant": old["tenant"], "amount": old["total"]}),
            replace(back, function=lambda new: {"id": new["id"], "tenant": new["tenant"], "total": new["amount"]}),
        ]
        found = (await check(database, migration))["hanging.public.orders"]
        said = found.remedy.replace('"total"', "orders.total")  # Postgres 18 names less
        assert "No ready statement for the view public.sums: column orders.total does not exist." in said
        cutover, rollback = found.remedy.split("In sql/rollback:")
        execute(database.dsn, [NEW.replace("id integer", "id bigint"), *sql_of(cutover)])
        assert one(database.dsn, "SELECT pg_typeof(id)::text FROM ids") is None
        assert one(database.dsn, "SELECT pg_get_viewdef('ids'::regclass)").endswith("FROM shop.orders;")
        for _ in range(2):
            assert one(database.dsn, f"SELECT has_table_privilege('{role}', 'ids', 'SELECT')")
            assert one(database.dsn, "SELECT obj_description('ids'::regclass)") == "it's"
            assert (
                one(database.dsn, "SELECT reloptions::text FROM pg_class WHERE relname = 'ids'")
                == "{security_barrier=true}"
            )
            execute(database.dsn, sql_of(rollback))
        assert one(database.dsn, "SELECT count(*) FROM ids") == 2
    finally:
        execute(database.dsn, [f"DROP OWNED BY {role}", f"DROP ROLE {role}"])


async def test_a_publication_keeps_its_columns_and_condition(database: Database, tmp_path: Path) -> None:
    """Else it would publish, from the cutover on, what nobody was to see."""
    execute(database.dsn, [OLD, "CREATE PUBLICATION part FOR TABLE orders (id, total) WHERE (id > 0)"])
    found = (await check(database, shop(tmp_path)))["hanging.public.orders"]
    cutover, rollback = found.remedy.split("In sql/rollback:")
    listed = "SELECT tablename, attnames::text, rowfilter FROM pg_publication_tables WHERE pubname = 'part'"
    with psycopg.connect(database.dsn, autocommit=True) as opened:
        before = opened.execute(listed).fetchall()
        opened.execute(NEW.encode())
        for statement in sql_of(cutover):
            opened.execute(statement.encode())
        where = opened.execute("SELECT schemaname FROM pg_publication_tables WHERE pubname = 'part'").fetchall()
        assert (where, opened.execute(listed).fetchall()) == ([("shop",)], before)
        for statement in sql_of(rollback):
            opened.execute(statement.encode())
        assert opened.execute(listed).fetchall() == before


async def test_a_copy_that_the_server_casts_takes_the_place_too(database: Database, tmp_path: Path) -> None:
    """It is read through a query, and is one table's successor all the same: for views, and for foreign keys."""
    bills = "CREATE TABLE bills (id integer PRIMARY KEY, order_id integer REFERENCES orders)"
    execute(database.dsn, [OLD, bills, "CREATE VIEW names AS SELECT id, tenant FROM orders"])
    migration = shop(tmp_path, way_back=False)
    migration.transforms.clear()
    migration.copy("orders", into="orders", cast={"total": "integer USING total * 2"}, way_back=False)
    found = await check(database, migration)
    assert 'FROM "shop"."orders"' in found["hanging.public.orders"].remedy
    assert "then to shop.orders" in found["foreign_keys.at_the_cutover"].detail


async def test_nothing_hangs_on_it(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    assert (await check(database, shop(tmp_path)))["hanging"].outcome == "pass"


@pytest.mark.parametrize("strategy", ["schema", "rename"])
async def test_a_rehearsed_cutover_tells_what_it_would_do(database: Database, tmp_path: Path, strategy: str) -> None:
    """As it is under the lock, with the team's own statements: what is done then is what it said."""
    execute(database.dsn, [OLD, HANGING])
    migration = shop(tmp_path)
    place = "shop.orders" if strategy == "schema" else "public.orders"
    fill(
        tmp_path,
        cutover=[f"CREATE OR REPLACE VIEW names AS SELECT id, tenant FROM {place};".replace(" names", " public.names")],
        rollback=["CREATE OR REPLACE VIEW public.names AS SELECT id, tenant FROM public.orders;"],
    )
    closes = "public.orders" if strategy == "schema" else "public.orders_old"
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        found = (await running.cut_over(strategy=strategy, dry_run=True)).consequences
        assert found is not None
        assert found.strategy == strategy
        assert (found.refuse, found.take, found.dropped) == ([closes], [place], [closes])
        renamed = [("public.orders", "public.orders_old"), ("shop.orders", "public.orders")]
        assert sorted(found.renamed) == ([] if strategy == "schema" else renamed)
        assert found.keys == [
            "bills_order_id_fkey of public.bills (to public.orders): made anew, then to shop.orders; its rows are "
            "looked at afterwards"
        ]
        assert [each.split(":")[0] for each in found.statements] == ["sql/cutover/10_tables.sql"]
        hanging = {each.what: each for each in found.hanging}
        assert not {"view public.names", 'view reports."Old names"'} & hanging.keys()
        assert {"materialized view public.totals", "function public.largest()", "publication feed"} <= hanging.keys()
        assert any(
            line.startswith("CREATE MATERIALIZED VIEW") for line in hanging["materialized view public.totals"].cutover
        )
        locked = {(each.step, each.mode, table) for each in found.locks for table in each.tables}
        first = {"schema": "SHARE ROW EXCLUSIVE", "rename": "ACCESS EXCLUSIVE"}[strategy]
        assert ("hold the writers", first, "public.orders") in locked
        assert ("hold the writers", first, "public.bills") in locked  # for its foreign key
        assert ("statements of sql/cutover", "ACCESS EXCLUSIVE", "public.names") in locked
        if strategy == "schema":
            assert ("foreign keys", "ACCESS EXCLUSIVE", "public.bills") in locked
        steps = [each.step for each in found.locks]
        assert steps[0] == "hold the writers"
        assert steps.index("move") < steps.index("statements of sql/cutover")
        assert found.pause_seconds is not None
        assert one(database.dsn, "SELECT to_regclass('public.orders_old')") is None
        done = await running.cut_over(strategy=strategy)
        assert set(done.dependents) == {each.what for each in found.hanging if each.stays}
        assert "view public.names" not in done.dependents


async def test_without_a_way_back_it_stands_still_at_once(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, "CREATE VIEW names AS SELECT id, tenant FROM orders"])
    migration = shop(tmp_path, way_back=False)
    said = "it stands still from then on; with --strategy rename"
    assert said in (await check(database, migration))["hanging.public.orders"].detail
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        assert (await running.cut_over()).dependents == ("view public.names",)
