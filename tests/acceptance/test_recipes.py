"""The recipes, as their page has them: a writer that never stops, a cutover, a rollback, and a second cutover."""

import asyncio
import contextlib
import importlib.util
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from replicator import Migration
from replicator.runbook.dry_run import dry_run
from replicator.runbook.generation import generate, write
from replicator.switchover.phases import ROLLBACK
from tests.checking import check, outcomes
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.pages import MANUAL, section
from tests.sessions import Running, daemon
from tests.statements import one

pytestmark = [pytest.mark.one_server, pytest.mark.timeout(300)]

PAGE = "docs/author/recipes.md"
FILE = re.compile(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
MOVED = "RP002"
"""What a statement meets that comes to a closed table."""
WRITES = 12
"""After each move."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the page does not say: the lines it may take, and what an application does meanwhile.

    Statements are run in turn, each in its own transaction, with ``{n}`` for the number of the round.
    """

    lines: int
    seed: str
    old: Sequence[str]
    new: Sequence[str] = ()
    """Empty: the same SQL, for the tables keep their names."""
    apart: str
    """Counts the rows that are not the same on both sides: ``{old}`` and ``{new}`` are their places."""
    strategy: str = "schema"
    tables: Sequence[str] = field(default=())
    """Those that are renamed."""


def apart(old: str, new: str) -> str:
    """How many rows one of two queries has, and the other has not."""
    one, other = f"({old})", f"({new})"
    return f"(SELECT count(*) FROM (({one} EXCEPT ALL {other}) UNION ALL ({other} EXCEPT ALL {one})) AS d)"


def alike(*tables: str) -> str:
    """The same for tables of one name, whose columns print the same."""
    return "SELECT " + " + ".join(
        apart(f"SELECT to_jsonb(t) FROM {{old}}{each}{{as_old}} t", f"SELECT to_jsonb(t) FROM {{new}}{each} t")
        for each in tables
    )


RECIPES = {
    "Wider ids": Recipe(
        lines=8,
        strategy="rename",
        seed="""
            INSERT INTO customers (name) SELECT 'c' || i FROM generate_series(1, 100) i;
            INSERT INTO orders (customer_id) SELECT 1 + i % 100 FROM generate_series(1, 200) i;
            INSERT INTO lines SELECT id, p, 'sku' FROM orders, generate_series(1, 2) p;
        """,
        old=(
            "INSERT INTO customers (name) VALUES ('n{n}')",
            "INSERT INTO orders (customer_id) SELECT max(id) FROM customers",
            "INSERT INTO lines SELECT max(id), 1, 's{n}' FROM orders",
            "UPDATE customers SET name = name || '!' WHERE id = 1 + {n} % 50",
            "DELETE FROM customers WHERE id = 50 + {n}",
            "UPDATE lines SET position = position + 10 WHERE order_id = 1 + {n} % 40",
        ),
        apart=alike("customers", "orders", "lines"),
    ),
    "Range partitions": Recipe(
        lines=12,
        strategy="rename",
        seed="INSERT INTO readings (taken_at, value) SELECT timestamptz '2025-06-01' + i * interval '1 day', i "
        "FROM generate_series(1, 300) i",
        old=(
            "INSERT INTO readings (value) VALUES ({n})",
            "UPDATE readings SET value = value + 0.5 WHERE id = 1 + {n} % 100",
            "UPDATE readings SET taken_at = taken_at + interval '100 days' WHERE id = 100 + {n} % 100",
            "DELETE FROM readings WHERE id = 200 + {n}",
        ),
        apart=alike("readings"),
    ),
    "Hash partitions": Recipe(
        lines=12,
        strategy="rename",
        seed="INSERT INTO sessions SELECT md5(i::text)::uuid, i FROM generate_series(1, 300) i",
        old=(
            "INSERT INTO sessions VALUES (gen_random_uuid(), {n})",
            """UPDATE sessions SET data = '{{"n": {n}}}' WHERE user_id = {n}""",
            "UPDATE sessions SET id = md5('x{n}')::uuid WHERE id = md5('{n}')::uuid",
            "DELETE FROM sessions WHERE user_id = 200 + {n}",
        ),
        apart=alike("sessions"),
    ),
    "Times with a zone": Recipe(
        lines=4,
        strategy="rename",
        seed="INSERT INTO events (at, what) SELECT timestamp '2026-06-01' + i * interval '1 hour', 'e' || i "
        "FROM generate_series(1, 200) i",
        old=(
            "INSERT INTO events (at, what) VALUES ('2026-07-01 12:00:00.5', 'n{n}')",
            "UPDATE events SET at = at + interval '1 day' WHERE id = 1 + {n} % 50",
            "DELETE FROM events WHERE id = 100 + {n}",
        ),
        apart="SELECT " + apart(
            "SELECT id, at AT TIME ZONE 'Europe/Berlin', what FROM events{as_old}",
            "SELECT id, at, what FROM {new}events",
        ),
    ),
    "An array into a child table": Recipe(
        lines=25,
        seed="INSERT INTO posts (title, tags) SELECT 't' || i, (ARRAY['a', 'b, \"c', 'NULL'])[:i % 4] "
        "FROM generate_series(1, 100) i",
        old=(
            """INSERT INTO posts (title, tags) VALUES ('n{n}', '{{x,"y z",x}}')""",
            "UPDATE posts SET tags = array_prepend('p{n}', tags) WHERE id = 1 + {n} % 10",
            "UPDATE posts SET tags = '{{}}', title = title || '!' WHERE id = 20 + {n}",
            "DELETE FROM posts WHERE id = 50 + {n}",
        ),
        new=(
            "WITH p AS (INSERT INTO app.posts (title) VALUES ('m{n}') RETURNING id) "
            "INSERT INTO app.post_tags SELECT id, 1, 'tag' FROM p",
            "INSERT INTO app.post_tags SELECT post_id, max(position) + 1, 'more' FROM app.post_tags "
            "WHERE post_id <= {n} % 10 GROUP BY post_id",
            "DELETE FROM app.post_tags AS t WHERE post_id = 1 + {n} % 5 "
            "AND position = (SELECT max(position) FROM app.post_tags WHERE post_id = t.post_id)",
            "DELETE FROM app.posts WHERE id = 100 - {n}",
        ),
        apart="SELECT " + apart(
            "SELECT id, title, tags FROM posts",
            "SELECT id, title, ARRAY(SELECT tag FROM app.post_tags WHERE post_id = id ORDER BY position) "
            "FROM app.posts",
        ),
    ),
    "A child table into JSON": Recipe(
        lines=20,
        seed="""
            INSERT INTO orders (customer) SELECT 'c' || i FROM generate_series(1, 100) i;
            INSERT INTO order_lines
            SELECT id, 3 * p, 's', p + 0.5 FROM orders, generate_series(1, 2) p WHERE id % 5 > 0;
        """,
        old=(
            "INSERT INTO orders (customer) VALUES ('n{n}')",
            "INSERT INTO order_lines SELECT max(id), 1, 'sku', {n} FROM orders",
            "UPDATE order_lines SET price = NULL, order_id = order_id + 1 WHERE order_id = 9 + 10 * ({n} % 5)",
            "DELETE FROM order_lines WHERE order_id = 60 + {n} AND position = 3",
            "DELETE FROM orders WHERE id = 80 + {n}",
        ),
        new=(
            "INSERT INTO app.orders (customer, lines) "
            """VALUES ('m', '[{{"position": 7, "sku": "x", "price": 1.10}}]')""",
            "UPDATE app.orders "
            """SET lines = lines || '[{{"position": 9{n}, "sku": "y", "price": null}}]' WHERE id = 3""",
            "UPDATE app.orders SET lines = lines - 0 WHERE id = 20 + {n}",
            "DELETE FROM app.orders WHERE id = 60 - {n}",
        ),
        apart="SELECT " + apart("SELECT * FROM orders", "SELECT id, customer FROM app.orders") + " + " + apart(
            "SELECT order_id, position, sku, price FROM order_lines",
            "SELECT id, position, sku, price FROM app.orders, "
            "jsonb_to_recordset(lines) AS l(position integer, sku text, price numeric(10, 2))",
        ),
    ),
    "Two tables into one": Recipe(
        lines=15,
        seed="INSERT INTO customers (name) SELECT 'c' || i FROM generate_series(1, 100) i;"
        "INSERT INTO suppliers (name, city) SELECT 's' || i, 'x' FROM generate_series(1, 120) i;",
        old=(
            "INSERT INTO customers (name) VALUES ('n{n}')",
            "INSERT INTO suppliers (name) VALUES ('n{n}')",
            "UPDATE customers SET city = 'c{n}' WHERE id = {n}",
            "UPDATE suppliers SET id = 1000 + {n} WHERE id = {n}",
            "DELETE FROM customers WHERE id = 40 + {n}",
        ),
        new=(
            "INSERT INTO app.parties (kind, name) VALUES ('customer', 'm{n}')",
            "INSERT INTO app.parties (kind, name) VALUES ('supplier', 'm{n}')",
            "UPDATE app.parties SET city = 'm{n}' WHERE id = 30 + {n}",
            "UPDATE app.parties SET kind = 'customer' WHERE kind = 'supplier' AND id = 100 + {n}",
            "DELETE FROM app.parties WHERE id = 90 - {n}",
        ),
        apart="SELECT " + apart(
            "SELECT 'customer', id, name, city FROM customers UNION ALL "
            "SELECT 'supplier', id, name, city FROM suppliers",
            "SELECT kind, id, name, city FROM app.parties",
        ),
    ),
    "A tenant key": Recipe(
        lines=12,
        seed="INSERT INTO customers (name) SELECT 'c' || i FROM generate_series(1, 100) i;"
        "INSERT INTO orders (customer_id, total) SELECT id, 1.5 FROM customers WHERE id < 50;",
        old=(
            "INSERT INTO customers (name) VALUES ('n{n}')",
            "INSERT INTO orders (customer_id, total) SELECT max(id), {n} FROM customers",
            "UPDATE orders SET customer_id = 50 + {n} % 20, total = total * 2 WHERE id = {n}",
            "DELETE FROM customers WHERE id = 80 + {n} AND id NOT IN (SELECT customer_id FROM orders)",
        ),
        new=(
            "INSERT INTO app.customers (tenant_id, name) VALUES (1, 'm{n}')",
            "INSERT INTO app.orders (tenant_id, customer_id, total) SELECT 1, max(id), {n} FROM app.customers",
            "UPDATE app.customers SET name = name || '?' WHERE id = {n}",
            "DELETE FROM app.orders WHERE id = 40 - {n}",
        ),
        apart="SELECT " + " + ".join(
            apart(f"SELECT 1, {columns} FROM {table}", f"SELECT tenant_id, {columns} FROM app.{table}")
            for table, columns in {"customers": "id, name", "orders": "id, customer_id, total"}.items()
        ),
    ),
    "Text to an enum": Recipe(
        lines=6,
        seed="INSERT INTO tickets (title, state) SELECT 't' || i, (ARRAY['open', 'waiting', 'closed'])[1 + i % 3] "
        "FROM generate_series(1, 200) i",
        old=(
            "INSERT INTO tickets (title) VALUES ('n{n}')",
            "UPDATE tickets SET state = 'closed' WHERE id = {n}",
            "DELETE FROM tickets WHERE id = 100 + {n}",
        ),
        new=(
            "INSERT INTO app.tickets (title, state) VALUES ('m{n}', 'waiting')",
            "UPDATE app.tickets SET state = 'open' WHERE id = {n}",
            "DELETE FROM app.tickets WHERE id = 200 - {n}",
        ),
        apart=alike("tickets"),
    ),
    "UUID keys": Recipe(
        lines=15,
        seed="INSERT INTO users (name) SELECT 'u' || i FROM generate_series(1, 100) i;"
        "INSERT INTO posts (user_id, title) SELECT nullif(i % 50, 0), 'p' || i FROM generate_series(1, 200) i;",
        old=(
            "INSERT INTO users (name) VALUES ('n{n}')",
            "INSERT INTO posts (user_id, title) SELECT max(id), 'n{n}' FROM users",
            "UPDATE posts SET user_id = 60 + {n} % 20 WHERE id = {n}",
            "DELETE FROM users WHERE id = 30 + {n} AND id < 60",
        ),
        new=(
            "WITH u AS (INSERT INTO app.users (name) VALUES ('m{n}') RETURNING id) "
            "INSERT INTO app.posts (user_id, title) SELECT id, 'm{n}' FROM u",
            "UPDATE app.posts SET user_id = NULL, title = title || '?' WHERE title LIKE '%{n}'",
            "DELETE FROM app.users WHERE name = 'u{n}' AND {n} < 60",
        ),
        apart="SELECT " + apart(
            "SELECT to_hex(id), name FROM users", "SELECT ltrim(right(id::text, 12), '0'), name FROM app.users"
        ) + " + " + apart(
            "SELECT to_hex(id), to_hex(user_id), title FROM posts",
            "SELECT ltrim(right(id::text, 12), '0'), ltrim(right(user_id::text, 12), '0'), title FROM app.posts",
        ),
    ),
}  # fmt: skip


def files(title: str) -> dict[str, str]:
    """The files of a recipe: a line with the name, then the block."""
    return dict(FILE.findall(section(title, {PAGE: MANUAL[PAGE]})))


def lines(code: str) -> int:
    """Lines of Python, without empty ones and comments."""
    return len([line for line in code.splitlines() if line.strip() and not line.strip().startswith("#")])


def load(folder: Path, title: str) -> Migration:
    """The migration, made as the tool makes it: from files in a folder."""
    for name, text in files(title).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    spec = importlib.util.spec_from_file_location("transforms_of_a_recipe", folder / "transforms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    migration: Migration = module.migration
    migration.sql = folder / "sql"
    return migration


class Application:
    """Writes without a pause, one statement after another; goes to the other schema when the database says so."""

    def __init__(self, dsn: str, recipe: Recipe) -> None:
        self._dsn = dsn
        self._recipe = recipe
        self.side = "old"
        self.done = 0
        self.rounds = 0
        self._going = asyncio.Lock()

    async def run(self) -> None:
        """Until it is cancelled."""
        async with await AsyncConnection.connect(self._dsn, autocommit=True, prepare_threshold=None) as connection:
            while True:
                self.rounds += 1
                for statement in self._recipe.old if self.side == "old" or not self._recipe.new else self._recipe.new:
                    async with self._going:
                        if not await self._write(connection, statement.format(n=self.rounds)):
                            break
                    await asyncio.sleep(0.02)

    async def _write(self, connection: AsyncConnection[Any], statement: str) -> bool:
        try:
            await connection.execute(statement.encode())
        except psycopg.Error as error:
            if error.sqlstate != MOVED:
                raise
            cursor = await connection.execute("SELECT replicator.use_new_schema()")
            (new,) = await cursor.fetchone() or (False,)
            self.side = "new" if new else "old"
            return False
        self.done += 1
        return True

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """No statement runs meanwhile."""
        async with self._going:
            yield


class Play:
    """One recipe, as it is played."""

    def __init__(self, database: Database, recipe: Recipe, running: Running, application: Application) -> None:
        self._dsn = database.dsn
        self._recipe = recipe
        self._running = running
        self.application = application
        self.writing = asyncio.create_task(application.run())

    async def more(self) -> None:
        """The application has written again, wherever it may."""
        wanted = self.application.done + WRITES
        await self._until(lambda: self.application.done >= wanted)

    async def same(self, *, renamed: bool = False) -> None:
        """Every row is the same on both sides, and none was refused."""
        rename = self._recipe.strategy == "rename"
        new = "" if renamed else next(iter(re.findall(r"SCHEMA IF NOT EXISTS (\w+)", self.new_tables))) + "."
        query = self._recipe.apart.format(old="", as_old="_old" if rename and renamed else "", new=new)
        async with self.application.paused():
            await self._until(lambda: one(self._dsn, query) == 0)
        assert one(self._dsn, "SELECT count(*) FROM _replicator.quarantine") == 0

    new_tables = ""

    async def _until(self, condition: Any) -> None:
        def holds() -> bool:
            if self.writing.done():
                self.writing.result()
            return bool(condition())

        await self._running.until(holds)


@contextlib.asynccontextmanager
async def playing(database: Database, recipe: Recipe, migration: Migration) -> AsyncIterator[tuple[Running, Play]]:
    settings = make_settings(database)
    async with daemon(settings, migration) as running:
        play = Play(database, recipe, running, Application(database.dsn, recipe))
        try:
            yield running, play
        finally:
            play.writing.cancel()
            await asyncio.gather(play.writing, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_PASSES", 0.3)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_LOOKS", 0.05)


def test_every_recipe_is_played() -> None:
    titles = re.findall(r"^## (.*)$", MANUAL[PAGE], re.MULTILINE)
    assert titles == list(RECIPES)


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_takes_few_lines(title: str) -> None:
    assert lines(files(title)["transforms.py"]) <= RECIPES[title].lines


@pytest.mark.parametrize("title", RECIPES)
async def test_a_recipe_there_and_back_and_there_again(database: Database, tmp_path: Path, title: str) -> None:
    recipe = RECIPES[title]
    migration = load(tmp_path, title)
    execute(database.dsn, [files(title)["old.sql"], recipe.seed])
    found = await check(database, migration)
    assert outcomes(found, "fail") == set(), [each for each in found.values() if each.outcome == "fail"]
    tried = await dry_run(make_settings(database), migration, None, lambda *_: None)
    assert tried.ok
    assert [each for each in tried.way_back.tables if not each.same] == []
    async with playing(database, recipe, migration) as (running, play):
        play.new_tables = files(title)["sql/new/10_tables.sql"]
        await running.ready()
        await play.more()
        await play.same()
        for last in (False, True):
            await running.cut_over(strategy=recipe.strategy)
            await play.more()
            await play.same(renamed=recipe.strategy == "rename")
            await running.clean()
            if not last:
                await running.session.switchovers.run(ROLLBACK, running.report)
                await play.more()
                await play.same()
                await running.clean()
    assert one(database.dsn, "SELECT count(*) FROM _replicator.kept") == 0, "something was lost on the way back"


GENERATED = ("Wider ids", "Range partitions", "Hash partitions", "Times with a zone", "Text to an enum", "UUID keys")
"""Those whose tables are copies, and differ from the old ones in what a copy says alone."""
TYPES = """
CREATE SCHEMA IF NOT EXISTS app;
DO $$ BEGIN
    CREATE TYPE app.ticket_state AS ENUM ('open', 'waiting', 'closed');
EXCEPTION WHEN duplicate_object THEN
END $$;
"""


@pytest.mark.parametrize("title", GENERATED)
async def test_the_tables_of_a_recipe_are_generated_too(database: Database, tmp_path: Path, title: str) -> None:
    migration = load(tmp_path, title)
    shutil.rmtree(tmp_path / "sql")
    (tmp_path / "sql" / "new").mkdir(parents=True)
    (tmp_path / "sql" / "new" / "05_types_tables.sql").write_text(TYPES)
    execute(database.dsn, [files(title)["old.sql"], RECIPES[title].seed])
    settings = make_settings(database)
    write(tmp_path / "sql", (await generate(settings, migration)).files)
    found = await check(database, migration)
    assert outcomes(found, "fail") == set(), [each for each in found.values() if each.outcome == "fail"]
    tried = await dry_run(settings, migration, None, lambda *_: None)
    assert tried.ok
    assert [each for each in tried.way_back.tables if not each.same] == []
