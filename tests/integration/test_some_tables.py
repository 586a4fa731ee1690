"""A migration of some tables of a schema: what it does not mention, and what it leaves, stays as it is."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Lookup, Migration, Query, Row
from replicator.pipeline.setup import all_tables
from replicator.runbook.freezing import old_tables
from replicator.switchover.phases import CUTOVER, ROLLBACK
from tests.checking import check, outcomes
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import daemon
from tests.statements import one

pytestmark = pytest.mark.two_servers

OLD = """
CREATE TABLE users (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id integer PRIMARY KEY, user_id integer REFERENCES users, total integer);
CREATE TABLE invoices (id integer PRIMARY KEY, note text);
CREATE TABLE audit (line text);
CREATE TABLE schema_migrations (version text);
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO public.audit VALUES (TG_TABLE_NAME); RETURN NULL; END';
CREATE TRIGGER noisy AFTER INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION shout();
INSERT INTO users VALUES (1, 'Ada'), (2, 'Bob');
INSERT INTO orders VALUES (1, 1, 5), (2, 2, 7);
INSERT INTO schema_migrations VALUES ('20260101');
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.orders (id bigint PRIMARY KEY, user_id integer, total integer, buyer text);
"""
ORDERS = """
SELECT o.id, o.user_id, o.total, u.name AS buyer FROM public.orders o LEFT JOIN public.users u ON u.id = o.user_id
"""
LOOKUP = Lookup("SELECT id FROM public.orders WHERE user_id = %(id)s")
STAY = ("users", "invoices", "audit", "schema_migrations")

# All that says something of a table, save for its statistics and what a foreign key leaves on the table it points at.
CATALOGUE = """
    SELECT jsonb_agg(to_jsonb(found) ORDER BY kind, what)::text FROM (
        SELECT 'table' AS kind, c.oid::text AS what, jsonb_build_array(c.relname, c.relnamespace, c.relowner,
            c.relacl::text, c.relreplident, c.relpersistence, c.relfilenode, c.relrowsecurity, c.reloptions) AS facts
        FROM pg_class c WHERE c.relname = ANY (%(tables)s) AND c.relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT 'trigger', t.oid::text, jsonb_build_array(t.tgname, t.tgenabled, t.tgrelid)
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relname = ANY (%(tables)s) AND c.relnamespace = 'public'::regnamespace AND NOT t.tgisinternal
        UNION ALL
        SELECT 'publication', p.prrelid::text, jsonb_build_array(p.prrelid)
        FROM pg_publication_rel p JOIN pg_class c ON c.oid = p.prrelid
        WHERE c.relname = ANY (%(tables)s) AND c.relnamespace = 'public'::regnamespace
    ) found
"""


def some(folder: Path, **how: Any) -> Migration:
    """The orders, with their buyers' names."""
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(NEW)
    migration = Migration("some", old="public", new="shop", sql=folder, **how)
    source = Query(ORDERS, key=["id"], depends_on={"orders": ["id"], "users": LOOKUP})

    @migration.transform(source=source, into="orders", key=lambda old: old["id"])
    def order(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.reverse(source="orders", into="orders", key=lambda new: new["id"])
    def old_order(new: Row) -> dict[str, Any]:
        return {"id": new["id"], "user_id": new["user_id"], "total": new["total"]}

    return migration


def catalogue(database: Database, tables: tuple[str, ...] = STAY) -> Any:
    with psycopg.connect(database.dsn) as opened:
        return opened.execute(CATALOGUE.encode(), {"tables": list(tables)}).fetchone()


async def test_what_stays_is_followed_until_the_cutover_and_never_touched(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    before = catalogue(database, STAY[1:])
    noted = one(database.dsn, "SELECT count(*) FROM audit")
    migration = some(tmp_path)
    migration.leave("users")
    settings = make_settings(database)
    async with daemon(settings, migration) as running:
        await running.ready()
        execute(database.dsn, ["UPDATE users SET name = 'Eve' WHERE id = 2"])
        await running.until(lambda: one(database.dsn, "SELECT buyer FROM shop.orders WHERE id = 2") == "Eve")
        result = await running.cut_over(strategy="rename")
        assert result.dependents == ()
        execute(
            database.dsn,
            [
                "INSERT INTO users VALUES (3, 'Zoe')",
                "UPDATE users SET name = 'Eva' WHERE id = 2",
                "INSERT INTO orders VALUES (3, 3, 9, 'Zoe')",
                "INSERT INTO invoices VALUES (1, 'x')",
                "INSERT INTO audit VALUES ('by hand')",
            ],
        )
        await running.until(lambda: one(database.dsn, "SELECT total FROM orders_old WHERE id = 3") == 9)
        await running.clean()
        await running.session.switchovers.run(ROLLBACK, running.report)
        execute(database.dsn, ["UPDATE users SET name = 'Zora' WHERE id = 3"])
        await running.until(lambda: one(database.dsn, "SELECT buyer FROM shop.orders WHERE id = 3") == "Zora")
        await running.clean()
        assert one(database.dsn, "SELECT buyer FROM shop.orders WHERE id = 2") == "Eva"
        await running.cut_over()
        assert (await all_tables(settings, migration))["old"] != []
    assert catalogue(database, STAY[1:]) == before
    assert one(database.dsn, "SELECT count(*) FROM audit") == noted + 5
    assert old_tables(migration) == {"orders"}


async def test_its_writers_wait_for_the_cutover(database: Database, tmp_path: Path) -> None:
    """Else what they write between the last look and the commit would be in no new row."""
    execute(database.dsn, [OLD])
    migration = some(tmp_path)
    migration.leave("users")
    steps: list[str] = []
    with psycopg.connect(database.dsn) as writer:

        async def report(step: str) -> None:
            steps.append(step)
            if step.startswith("attempt 1:"):  # as late as can be: a slot would wait for the transaction, too
                writer.execute("UPDATE users SET name = 'Eve' WHERE id = 2")
            if step.startswith("given up"):
                writer.commit()

        async with daemon(make_settings(database), migration) as running:
            await running.ready()
            result = await running.session.switchovers.run(CUTOVER, report)
            assert result.attempts > 1
    assert any(step.startswith("given up") and "could not be locked" in step for step in steps), steps
    assert one(database.dsn, "SELECT buyer FROM shop.orders WHERE id = 2") == "Eve"


async def test_check_says_what_is_left(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    migration = some(tmp_path)
    migration.leave("users")
    found = (await check(database, migration))["old_tables.coverage"]
    assert found.outcome == "pass"
    assert "4 left alone: audit, invoices, schema_migrations, users" in found.detail

    whole = some(tmp_path, whole_schema=True)
    whole.leave("users", "invoices")
    found = (await check(database, whole))["old_tables.coverage"]
    assert found.outcome == "fail"
    assert "either transformed, nor retired, nor left: audit, schema_migrations" in found.detail
    assert 'migration.leave("audit")' in found.remedy.splitlines()

    wrong = some(tmp_path)
    wrong.leave("usres", "orders", "invoices")
    wrong.retire("invoices", because="both")
    found = (await check(database, wrong))["old_tables.coverage"]
    assert "eft, but not there: usres" in found.detail
    assert "left, but written on the way back: orders" in found.detail
    assert "both retired and left: invoices" in found.detail
    assert outcomes(await check(database, wrong), "fail") == {"old_tables.coverage"}
