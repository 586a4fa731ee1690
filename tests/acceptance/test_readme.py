"""The README's example really runs, as its reader would run it; and so do the programs of other pages."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from replicator.demo.embedded import Cluster, installed_binaries
from tests.acceptance.example import Shop, succeeds
from tests.acceptance.terminal import Daemon
from tests.pages import code, files, section, tables


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A server of its own: the example makes roles. Its log has every statement, and whose it is."""
    logged = {"log_statement": "all", "log_line_prefix": "%a|"}
    with Cluster(next(iter(installed_binaries()), None), settings=logged) as made:
        yield made


@pytest.fixture
def shop(cluster: Cluster, tmp_path: Path) -> Shop:
    made = Shop(cluster, tmp_path)
    made.set_up()
    return made


@pytest.mark.timeout(600)
def test_the_example_from_the_first_check_to_the_way_back(shop: Shop) -> None:
    terminal = shop.terminal
    due = terminal.run("schema", "--dry-run").output
    assert "CREATE TABLE IF NOT EXISTS shop.customers" in due
    assert "INDEX" not in due, "indexes before the backfill"
    succeeds(terminal.run("check"))
    with terminal.daemon() as daemon:
        the_old_application_writes(shop)
        daemon.until(lambda: shop.get("/readyz")[0] == 200)
        before_the_cutover(shop)
        with shop.connect("app") as listener:
            listener.execute("LISTEN replicator_cutover")
            succeeds(terminal.run("cutover", "--wait"))
            assert [each.payload for each in listener.notifies(timeout=30, stop_after=1)] == ["new"]
        after_the_cutover(shop, daemon)
        the_new_application_writes(shop, daemon)
        going_back(shop, daemon)
        assert daemon.stop() == 0
    assert terminal.run("verify").code == 3, "no daemon runs"
    starting_anew(shop)
    locks_as_documented(shop)
    assert "change-me" in files()[".env"]
    assert not any("change-me" in each for each in terminal.said), "the password was printed"


def refusal(shop: Shop, statement: str) -> str:
    """How a psql would show the guard's error."""
    with shop.connect("app") as app, pytest.raises(psycopg.Error) as refused:
        app.execute(statement.encode())
    assert refused.value.sqlstate == "RP002"
    return f"ERROR:  {refused.value.diag.message_primary}\nHINT:  {refused.value.diag.message_hint}\n"


def the_old_application_writes(shop: Shop) -> None:
    """While the daemon copies."""
    with shop.connect("app") as app:
        app.execute(
            """
            INSERT INTO customers (id, email, full_name) VALUES (1000, 'late@example.org', 'Late');
            INSERT INTO addresses VALUES (1000, 'billing', 'Late Street', 'City');
            UPDATE customers SET email = 'moved@example.org' WHERE id = 1;
            UPDATE addresses SET city = 'Elsewhere' WHERE customer_id = 2;
            DELETE FROM addresses WHERE customer_id = 4;
            DELETE FROM carts WHERE customer_id = 5;
            DELETE FROM customers WHERE id IN (6, 30) AND id NOT IN (SELECT customer_id FROM carts);
            """
        )


def before_the_cutover(shop: Shop) -> None:
    succeeds(shop.terminal.run("verify"))
    assert shop.apart() == 0
    assert shop.one("SELECT count(*) FROM shop.customers") == 500
    status = shop.terminal.json("status")
    assert json.loads(shop.get("/status")[1])["owner"] == status["owner"] == "old"
    assert shop.get("/healthz") == (200, "ok\n")
    assert "replicator_ready 1.0" in shop.get("/metrics")[1]
    (listed,) = tables(section("The gates"))
    assert [gate["name"] for gate in status["gates"]] == [code(name) for name, _ in listed]
    assert shop.one("SELECT replicator.active_schema()") == "public"
    assert shop.one("SELECT replicator.use_new_schema()") is False
    assert "the schema in use is public" in refusal(shop, "INSERT INTO shop.customers (name) VALUES ('early')")


def after_the_cutover(shop: Shop, daemon: Daemon) -> None:
    """An application that retries as the manual shows goes over by itself; one that does not, is told where to go."""
    the_application_that_retries(shop)
    assert shop.one("SELECT replicator.active_schema()") == "shop"
    assert shop.one("SELECT replicator.use_new_schema()") is True
    shown = refusal(shop, "UPDATE customers SET full_name = 'late' WHERE id = 1")
    assert shown in section("How the application learns of the cutover")
    assert "public.carts" in refusal(shop, "DELETE FROM carts")
    daemon.until(lambda: json.loads(shop.get("/status")[1])["owner"] == "new")


def the_application_that_retries(shop: Shop) -> None:
    """The loop of the manual, and its use: it begins at the old schema, and has not heard of the cutover."""
    names: dict[str, Any] = {}
    for text in re.findall(r"^```python\n(.*?)^```", section("The loop"), re.MULTILINE | re.DOTALL):
        exec(compile(text, "docs/application/retrying.md", "exec"), names)  # noqa: S102  as its reader would run it
    with ConnectionPool(shop.cluster.dsn("app", user="app"), min_size=1, max_size=1) as pool:
        database = names["Database"](pool)
        assert database.side == "old"
        names["rename"](database, 2, "Renamed")
        assert database.side == "new"
    assert shop.one("SELECT name FROM shop.customers WHERE id = 2") == "Renamed"


def the_new_application_writes(shop: Shop, daemon: Daemon) -> None:
    with shop.connect("app") as app:
        app.execute(
            """
            WITH made AS (
                INSERT INTO shop.customers (name, addresses)
                VALUES ('New', '{"billing": {"street": "New Street", "city": "City"}}') RETURNING id
            ) INSERT INTO shop.emails SELECT 'new@example.org', id FROM made;
            UPDATE shop.customers SET addresses = '{}' WHERE id = 7;
            UPDATE shop.emails SET email = 'again@example.org' WHERE customer_id = 1;
            DELETE FROM shop.emails WHERE customer_id = 9;
            DELETE FROM shop.customers WHERE id = 9;
            """
        )
    daemon.until(lambda: shop.apart() == 0)
    assert shop.one("SELECT count(*) FROM customers WHERE email IN ('new@example.org', 'again@example.org')") == 2
    assert shop.one("SELECT count(*) FROM customers WHERE id = 9") == 0
    succeeds(shop.terminal.run("verify"))
    what_the_old_tables_cannot_hold(shop, daemon)


def what_the_old_tables_cannot_hold(shop: Shop, daemon: Daemon) -> None:
    with shop.connect("app") as app:
        app.execute("INSERT INTO shop.customers (id, name) VALUES (5000, 'No e-mail')")
        daemon.until(lambda: shop.terminal.json("status")["quarantined"])
        (entry,) = shop.terminal.json("quarantine", "list")["entries"]
        assert (entry["pipeline"], entry["transform"], entry["key"]) == ("reverse", "old_customer", ["5000"])
        assert "null value in column" in entry["error"]
        app.execute("INSERT INTO shop.emails VALUES ('has@example.org', 5000)")
    daemon.until(lambda: not shop.terminal.json("status")["quarantined"])
    assert shop.apart() == 0


def going_back(shop: Shop, daemon: Daemon) -> None:
    succeeds(shop.terminal.run("rollback", "--wait"))
    assert shop.one("SELECT replicator.active_schema()") == "public"
    assert "the schema in use is public" in refusal(shop, "INSERT INTO shop.customers (name) VALUES ('late')")
    with shop.connect("app") as app:
        app.execute("INSERT INTO customers (email) VALUES ('back@example.org')")
    assert shop.one("SELECT id > 5000 FROM customers WHERE email = 'back@example.org'") is True
    daemon.until(lambda: shop.apart() == 0)


LOCKED = re.compile(
    r"^replicator ([a-z ]+)\|LOG:  (?:statement|execute [^:]*): "
    r'LOCK TABLE (?:"public"|"shop").* IN ([A-Z ]+) MODE',
    re.MULTILINE,
)


def locks_as_documented(shop: Shop) -> None:
    """No session has locked a table of the application in another mode than the manual says."""
    found = LOCKED.findall(shop.cluster.log.read_text(errors="replace"))
    assert {session for session, _ in found} >= {"cutover", "clean up"}
    (rows, _) = tables(section("Locks"))
    documented = {
        "cutover": {row[2] for row in rows if row[0] in ("`replicator cutover`", "the tables that open")},
        "clean up": {row[2] for row in rows if "`replicator abort`" in row[0]},
        "cutover vacuum": {"SHARE UPDATE EXCLUSIVE"},  # where an autovacuum was in the way
    }
    assert [each for each in found if documented.get(each[0]) != {each[1]}] == []


def starting_anew(shop: Shop) -> None:
    assert shop.one("SELECT count(*) FROM pg_replication_slots") == 1
    succeeds(shop.terminal.run("abort", "--yes"))
    assert shop.one("SELECT count(*) FROM pg_replication_slots") == 0
    checked = shop.terminal.json("check")
    assert checked["ok"], checked
    with shop.terminal.daemon() as daemon:
        daemon.until(lambda: shop.get("/readyz")[0] == 200)
        with shop.connect("postgres") as admin:
            row = admin.execute("SELECT count(*) FROM shop.emails WHERE email = 'back@example.org'").fetchone()
    assert row == (1,)


# --- the author's unit tests


def test_the_unit_tests_of_the_example_pass(tmp_path: Path) -> None:
    for name, text in (files() | files("Unit tests")).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "-c", os.devnull, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout
