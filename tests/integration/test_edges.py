"""Foreign keys between tables that a cutover closes and tables that the application goes on writing to."""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration, Row
from replicator.errors import CheckError, NotReadyError
from replicator.switchover.phases import OPENING
from tests.checking import check
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import daemon
from tests.statements import one

pytestmark = pytest.mark.one_server

OLD = """
CREATE TABLE users (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id integer PRIMARY KEY, user_id integer REFERENCES users ON DELETE CASCADE, total integer);
CREATE TABLE invoices (
    id integer PRIMARY KEY, "order" integer REFERENCES orders ON DELETE SET NULL DEFERRABLE, note text
);
CREATE TABLE parts (id integer, day integer, "order" integer REFERENCES orders, PRIMARY KEY (id, day))
    PARTITION BY RANGE (day);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
INSERT INTO users VALUES (1, 'Ada'), (2, 'Bob');
INSERT INTO orders VALUES (1, 1, 5), (2, 2, 7);
INSERT INTO invoices VALUES (1, 1, 'x');
INSERT INTO parts VALUES (1, 1, 1);
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.orders (id bigint PRIMARY KEY, user_id integer, total integer);
"""
KEYS = """
    SELECT string_agg(c.conrelid::regclass || ' ' || c.conname || ' ' || pg_get_constraintdef(c.oid), E'\\n'
                      ORDER BY c.conrelid::regclass::text, c.conname)
    FROM pg_constraint c WHERE c.contype = 'f' AND c.conparentid = 0
"""


def orders(folder: Path, new: str = NEW, **statements: str) -> Migration:
    """The orders alone."""
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(new)
    for kind, text in statements.items():
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / "10_own.sql").write_text(text)
    migration = Migration("orders", old="public", new="shop", sql=folder)

    @migration.transform(source="orders", into="orders", key=lambda old: old["id"])
    def order(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.reverse(source="orders", into="orders", key=lambda new: new["id"])
    def old_order(new: Row) -> dict[str, Any]:
        return dict(new)

    return migration


def as_the_application(dsn: str, schema: str) -> None:
    """What it may do with these tables at any time, at once: nothing has come over to the other side meanwhile."""
    with psycopg.connect(dsn) as opened:
        for statement in (
            "INSERT INTO public.users VALUES (9, 'Zoe')",
            f"INSERT INTO {schema}.orders VALUES (9, 9, 1)",
            "INSERT INTO public.invoices VALUES (9, 9, 'y')",
            "INSERT INTO public.parts VALUES (9, 2, 9)",
        ):
            opened.execute(statement.encode())
            opened.commit()
        for statement in (
            "DELETE FROM public.parts WHERE id = 9",
            "DELETE FROM public.invoices WHERE id = 9",
            f"DELETE FROM {schema}.orders WHERE id = 9",
            "DELETE FROM public.users WHERE id = 9",
        ):
            opened.execute(statement.encode())
            opened.commit()


@pytest.mark.parametrize("strategy", ["schema", "rename"])
async def test_no_statement_of_the_application_fails(database: Database, tmp_path: Path, strategy: str) -> None:
    execute(database.dsn, [OLD])
    before = one(database.dsn, KEYS)
    schema = "public" if strategy == "rename" else "shop"
    async with daemon(make_settings(database), orders(tmp_path)) as running:
        await running.ready()
        await running.cut_over(strategy=strategy, dry_run=True)
        assert one(database.dsn, KEYS) == before
        for _ in range(2):
            assert (await running.cut_over(strategy=strategy)).dependents == ()
            as_the_application(database.dsn, schema)
            # What belongs to a table that stays leads to the new one, in the form that it had, and is looked at.
            place = "orders" if strategy == "rename" else "shop.orders"
            wanted = before.replace("REFERENCES orders(id)", f"REFERENCES {place}(id)")
            wanted = re.sub("orders orders_user_id_fkey .*\n", "", wanted)
            await running.until(lambda wanted=wanted: one(database.dsn, KEYS) == wanted)
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                execute(database.dsn, ["INSERT INTO invoices VALUES (7, 77, 'nothing')"])
            await running.clean()
            await running.roll_back(dry_run=True)
            assert one(database.dsn, KEYS) == wanted
            await running.roll_back()
            as_the_application(database.dsn, "public")
            await running.until(lambda: one(database.dsn, KEYS) == before)
            await running.clean()


async def test_check_says_what_becomes_of_them(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    found = (await check(database, orders(tmp_path)))["foreign_keys.at_the_cutover"]
    assert found.outcome == "pass"
    assert "invoices_order_fkey of public.invoices (to public.orders), then to shop.orders" in found.detail
    assert "dropped until a rollback: orders_user_id_fkey of public.orders" in found.detail


WITHOUT = NEW.replace("id bigint PRIMARY KEY", "id bigint, PRIMARY KEY (id, user_id)").replace(
    "user_id integer", "user_id integer NOT NULL"
)


async def test_one_that_cannot_lead_to_a_new_table_is_refused_with_the_statements_that_help(
    database: Database, tmp_path: Path
) -> None:
    execute(database.dsn, [OLD])
    migration = orders(tmp_path, WITHOUT)
    migration.transforms[0] = migration.transforms[0].__class__(**{**migration.transforms[0].__dict__, "key": None})
    found = (await check(database, migration))["foreign_keys.at_the_cutover"]
    assert found.outcome == "fail"
    assert "invoices_order_fkey of public.invoices (to public.orders): shop.orders has no unique index on id" in (
        found.detail
    )
    before = one(database.dsn, KEYS)
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        with pytest.raises(NotReadyError, match="has no unique index on id"):
            await running.cut_over()
        assert one(database.dsn, KEYS) == before
        assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == "old"
        for kind in ("cutover", "rollback"):
            (tmp_path / kind).mkdir()
            lines = [line.removeprefix(f"In sql/{kind}: ") for line in found.remedy.splitlines() if kind in line]
            (tmp_path / kind / "10_keys.sql").write_text("\n".join(lines))
        assert (await check(database, migration))["foreign_keys.at_the_cutover"].outcome == "pass"
        await running.cut_over()
        as_the_application(database.dsn, "shop")
        await running.clean()
        await running.roll_back()
        assert one(database.dsn, KEYS).replace(" NOT VALID", "") == before


USERS = "ALTER TABLE shop.orders ADD CONSTRAINT users FOREIGN KEY (user_id) REFERENCES public.users"


async def test_one_of_a_new_table_waits_for_the_cutover(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    migration = orders(tmp_path, cutover=f"{USERS} NOT VALID;", rollback="SELECT 1;")
    (tmp_path / "new" / "30_constraints.sql").write_text(f"{USERS} NOT VALID;")
    found = (await check(database, migration))["foreign_keys.until_the_cutover"]
    assert found.outcome == "fail"
    assert "users of shop.orders (to public.users)" in found.detail
    (tmp_path / "new" / "30_constraints.sql").unlink()
    assert (await check(database, migration))["foreign_keys.until_the_cutover"].outcome == "pass"
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        for _ in range(2):
            await running.cut_over()
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                execute(database.dsn, ["INSERT INTO shop.orders VALUES (8, 88, 1)"])
            as_the_application(database.dsn, "shop")
            await running.clean()
            await running.roll_back()
            as_the_application(database.dsn, "public")
            await running.clean()


async def test_rows_that_do_not_keep_it_are_told(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    migration = orders(tmp_path)
    execute(database.dsn, ["DELETE FROM parts"])  # its keys are looked at in the cutover itself
    migration.transforms[0] = migration.transforms[0].__class__(
        **{**migration.transforms[0].__dict__, "function": lambda old: None if old["id"] == 1 else dict(old)}
    )
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        await running.cut_over()
        told = "SELECT string_agg(details ->> 'key', ', ') FROM _replicator.journal WHERE event LIKE 'foreign%'"
        await running.until(lambda: one(database.dsn, told))
        assert "invoices_order_fkey of public.invoices" in one(database.dsn, told)
        execute(database.dsn, ["INSERT INTO invoices VALUES (8, 2, 'x')"])
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            execute(database.dsn, ["INSERT INTO invoices VALUES (7, 1, 'nothing')"])


async def test_none_while_both_schemas_take_writes(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    async with daemon(make_settings(database), orders(tmp_path)) as running:
        await running.ready()
        with pytest.raises(CheckError, match="Foreign keys join tables of the old schema with others"):
            await running.session.switchovers.run(OPENING, running.report)
