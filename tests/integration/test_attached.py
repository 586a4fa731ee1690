"""Whatever belongs to a table is read, and its DDL makes the same on another table."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration
from replicator.core.tables import Name
from replicator.postgres.attached import Attached, attached, lacking, read_partitions
from replicator.postgres.control.control import install
from replicator.postgres.control.owned import note
from replicator.postgres.guarding.guards import guard
from replicator.postgres.guarding.resting import lay_to_rest
from replicator.postgres.locking.trees import oids_of
from replicator.postgres.session.connect import connection
from tests.everything import NAME, everything, ran
from tests.fix_postgres import Database

pytestmark = pytest.mark.two_servers

COPY = Name(schema="other", table="a copy")


async def read(database: Database, schema: str, *tables: str) -> dict[str, list[Attached]]:
    async with connection(database.dsn, "test") as opened:
        return {name: list(found) for name, found in (await attached(opened, schema, tables)).items()}


def made(items: list[Attached], table: Name) -> str:
    """The table anew, from what belongs to it."""
    statements = ["CREATE SCHEMA IF NOT EXISTS other;", 'CREATE TABLE other."a copy" ();']
    return "\n".join([*statements, *(each.sql(table) for each in items)])


async def test_everything_is_read_and_made_again(database: Database) -> None:
    with everything(database):
        found = (await read(database, "public", NAME))[NAME]
        kinds = {each.kind for each in found}
        assert kinds == {
            "column", "sequence", "default", "identity", "not null", "storage", "compression", "statistics target",
            "column options", "check", "primary key", "unique", "exclusion", "foreign key", "index", "statistics",
            "storage parameters", "trigger", "rule", "row security", "policy", "replica identity", "clustering",
            "comment", "owner", "grant",
        }  # fmt: skip
        ran(database.dsn, made(found, COPY))
        copied = (await read(database, "other", COPY.table))[COPY.table]
        assert lacking(found, copied) == lacking(copied, found) == []
        assert [str(each) for each in found] == [str(each) for each in copied]


async def test_what_a_table_lacks(database: Database) -> None:
    """Modulo names: what is there under another name is carried over; what is there once is not there twice."""
    ran(
        database.dsn,
        """
        CREATE TABLE users (id integer PRIMARY KEY);
        CREATE TABLE orders (id integer PRIMARY KEY, "user" integer REFERENCES users, v text, w text CHECK (w <> ''));
        CREATE INDEX orders_v ON orders (v);
        CREATE INDEX orders_w ON orders (w);
        ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON orders USING (v = CURRENT_USER);
        GRANT SELECT, INSERT ON orders TO PUBLIC;
        CREATE SCHEMA shop;
        CREATE TABLE shop.users (id integer PRIMARY KEY);
        CREATE TABLE shop.orders (
            id integer CONSTRAINT of_another_name PRIMARY KEY, "user" integer REFERENCES shop.users, v text, w text
        );
        CREATE INDEX another ON shop.orders (v);
        GRANT SELECT, DELETE ON shop.orders TO PUBLIC;
        """,
    )
    old, new = [(await read(database, schema, "orders"))["orders"] for schema in ("public", "shop")]
    users = {Name(schema="public", table="users"): Name(schema="shop", table="users")}
    assert [str(each) for each in lacking(old, new, tables=users)] == [
        "check orders_w_check", "index orders_w", "row security enabled", "policy own", "grant on table INSERT PUBLIC",
    ]  # fmt: skip
    (foreign,) = [each for each in lacking(old, new) if each.kind == "foreign key"]
    orders = Name(schema="shop", table="orders")
    assert foreign.sql(orders, users) == (
        'ALTER TABLE "shop"."orders" ADD CONSTRAINT "orders_user_fkey" FOREIGN KEY ("user") '
        'REFERENCES "shop"."users"(id);'
    )
    ran(database.dsn, "\n".join(each.sql(orders) for each in lacking(old, new, tables=users)))
    assert lacking(old, (await read(database, "shop", "orders"))["orders"], tables=users) == []


async def test_partitions_and_publications(database: Database) -> None:
    ran(
        database.dsn,
        """
        CREATE TABLE days (id integer, day date, note text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
        CREATE TABLE "days 1" PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')
            PARTITION BY LIST (id);
        CREATE TABLE days_1_a PARTITION OF "days 1" FOR VALUES IN (1, 2);
        CREATE TABLE days_rest PARTITION OF days DEFAULT;
        CREATE INDEX of_note ON days (note);
        CREATE TABLE plain (id integer PRIMARY KEY, v text);
        CREATE PUBLICATION theirs FOR TABLE days, TABLE plain (id, v) WHERE (id > 3);
        CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA public;
        """,
    )
    found = await read(database, "public", "days", "plain", "days_1_a", "gone")
    assert set(found) == {"days", "plain", "days_1_a"}
    days = {each.kind: each for each in found["days"]}
    assert days["partition key"].fragment == ("PARTITION BY RANGE (day)",)
    assert "ONLY" not in days["index"].sql(COPY)
    assert {each.kind for each in found["days_1_a"]} == {"column", "not null", "owner", "publication"}
    other = Name(schema="other", table="plain")
    assert [each.sql(other) for each in found["plain"] if each.kind == "publication"] == [
        'ALTER PUBLICATION theirs ADD TABLE "other"."plain" (id, v) WHERE ((id > 3));',
        'ALTER PUBLICATION of_schema ADD TABLE "other"."plain";',
    ]
    async with connection(database.dsn, "test") as opened:
        partitions = await read_partitions(opened, "public", ["days", "plain"])
    assert partitions["plain"] == []
    assert [(each.name.table, each.parent, each.level, each.bound, each.key) for each in partitions["days"]] == [
        ("days 1", "days", 1, "FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')", "LIST (id)"),
        ("days_rest", "days", 1, "DEFAULT", None),
        ("days_1_a", "days 1", 2, "FOR VALUES IN (1, 2)", None),
    ]


async def test_what_is_ours_is_not_the_tables(database: Database, tmp_path: Path) -> None:
    """Nor is a trigger switched off for good that only rests while the daemon writes."""
    with everything(database):
        before = (await read(database, "public", NAME))[NAME]
        migration = Migration("ours", old="public", new="shop", sql=tmp_path)
        async with connection(database.dsn, "test") as opened:
            await install(opened, migration)
            table = Name(schema="public", table=NAME)
            await guard(opened, migration, "old", [table])
            await lay_to_rest(opened, await oids_of(opened, [table]))
            cursor = await opened.execute(
                "SELECT DISTINCT tgenabled::text FROM pg_trigger t WHERE NOT tgisinternal AND "
                "tgfoid = 'public.touch'::regproc"
            )
            assert await cursor.fetchall() == [("D",)]
            await opened.execute('CREATE PUBLICATION ours FOR TABLE public."Weird Name%"')
            cursor = await opened.execute("SELECT oid::int8 FROM pg_publication")
            (number,) = await cursor.fetchone() or (0,)
            await note(opened, "publication", "ours", number)
        assert (await read(database, "public", NAME))[NAME] == before


async def test_many_tables_take_as_many_queries_as_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(
        database.dsn,
        """
        DO $$ BEGIN FOR i IN 1..50 LOOP
            EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, v text UNIQUE CHECK (v > %L))', i, '%');
        END LOOP; END $$
        """,
    )
    asked: list[str] = []
    execute = psycopg.AsyncCursor.execute

    async def noting(cursor: Any, query: Any, *given: Any, **named: Any) -> Any:
        asked.append(str(query))
        return await execute(cursor, query, *given, **named)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", noting)
    one = await read(database, "public", "t1")
    (queries,), asked[:] = [len(asked)], []
    many = await read(database, "public", *(f"t{number}" for number in range(1, 51)))
    assert len(asked) == queries
    assert {len(each) for each in many.values()} == {len(one["t1"])}
