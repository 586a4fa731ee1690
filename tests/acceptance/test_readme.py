"""The documentation's promises: its tables are the code's, its sentences are said, and its example really runs."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psycopg
import pytest
import yaml
from prometheus_client import CollectorRegistry
from psycopg_pool import ConnectionPool

from replicator.cli.help import EXIT_CODES
from replicator.cli.prepare import Part
from replicator.demo.embedded import HOST, Cluster, free_port, installed_binaries
from replicator.observe.http import HttpServer
from replicator.observe.metrics import Metrics
from replicator.phases import Phase
from replicator.preflight.server_checks import OLDEST
from replicator.settings import describe_settings
from tests.acceptance.terminal import ROOT, Daemon, Done, Terminal
from tests.command_line import commands, split
from tests.pages import MANUAL, PAGES, README, anchors, block, broken, links, prose, section, tables

COMMANDS = commands()
TEXT = "\n".join(MANUAL.values())


def files(title: str = "Your own migration in ten minutes") -> dict[str, str]:
    """The files of the example, or of another section: a line with the name, then the block."""
    shown = section(title)
    return dict(re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```", shown, re.MULTILINE | re.DOTALL))


def code(text: str) -> str:
    """What stands between backticks; a dash or nothing is an empty text."""
    return text.strip("`")


# --- the tables are the code's ----------------------------------------------------------------------------------------


def test_every_setting() -> None:
    (rows,) = tables(section("Settings"))
    shown = [(code(name), "-" if default == "none" else code(default), meaning) for name, default, meaning in rows]
    assert shown == describe_settings()


def test_every_metric() -> None:
    metrics = Metrics()
    known = []
    for collector in metrics.registry._collector_to_names:
        (family,) = collector.describe()  # type: ignore[attr-defined]  # what we register has it
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)  # type: ignore[attr-defined]
        known.append([f"`{name}`", family.type, labels, family.documentation])
    (rows,) = tables(section("Metrics"))
    assert rows == known


def test_every_path_of_the_http_server() -> None:
    server = HttpServer("127.0.0.1:0", CollectorRegistry(), dict, lambda: None, lambda: None)
    (rows,) = tables(section("HTTP"))
    assert {code(path) for path, _ in rows} == set(server._app._pages)


def test_every_alert() -> None:
    (rows,) = tables(section("Alerts"))
    shown = {name: severity for names, severity, _ in rows for name in code(names).replace("`", "").split(", ")}
    (group,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    assert shown == {rule["alert"]: rule["labels"]["severity"] for rule in group["rules"]}


def test_every_phase() -> None:
    (rows,) = tables(section("Phases"))
    assert [code(phase) for phase, _ in rows] == [str(phase) for phase in Phase if phase != Phase.NEW]


def test_every_exit_code() -> None:
    (rows,) = tables(section("Exit codes"))
    assert [tuple(row) for row in rows] == list(EXIT_CODES)


def test_the_oldest_server() -> None:
    assert f"It works with Postgres {OLDEST // 10000} and later" in README


# --- commands ---------------------------------------------------------------------------------------------------------


def options(command: str) -> set[str]:
    return {name for each in COMMANDS[command].params for name in each.opts if name.startswith("--")} - {"--help"}


def test_every_command_with_every_option() -> None:
    rows = tables(section("Commands"))[0]
    shown = {split(row[0].replace("`", "").split()[1:])[0]: set(re.findall(r"--[\w-]+", row[0])) for row in rows}
    assert shown == {name: options(name) for name in COMMANDS}
    (schema,) = (row[0] for row in rows if "replicator schema" in row[0])
    assert re.findall(r"\[(\w+)\]", schema) == [str(part) for part in Part]


def shown_commands() -> list[list[str]]:
    """Every ``replicator ...`` in the manual, in the text or in a block."""
    spans = re.findall(r"`replicator\s([^`]*)`", TEXT)
    lines = [
        line for text in re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL) for line in text.splitlines()
    ]
    called = [line.removeprefix("replicator ") for line in lines if line.startswith("replicator ")]
    return [each.split("#")[0].replace("[", "").replace("]", "").split() for each in spans + called]


def test_every_command_that_is_shown_exists() -> None:
    shown = [words for words in shown_commands() if words and words != ["..."]]
    assert len(shown) > 20
    for words in shown:
        name, arguments = split(words)
        assert {each for each in arguments if each.startswith("-")} <= options(name), f"{name} {arguments}"
        if name != "schema":
            words_of_ours = ("all", "rename")
            assert all(
                each.startswith("-") or each.isupper() or each.isdigit() or each in words_of_ours for each in arguments
            ), arguments


# --- sentences and links ----------------------------------------------------------------------------------------------


def said() -> str:
    """Every text in the program, with … for what it fills in; and the errors of its SQL."""
    texts = []
    for file in (ROOT / "replicator").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values)
                )
    control = (ROOT / "replicator" / "postgres" / "control.sql").read_text()
    control = re.sub(r"--.*", "", control)  # an apostrophe in a comment ends no text
    texts += [each.replace("%.%", "…").replace("%", "…") for each in re.findall(r"'([^']+)'", control)]
    return re.sub(r"…(\.…)+", "…", "\n".join(texts))  # a dotted name is one thing


def sentences() -> list[str]:
    (rows,) = tables(section("When something goes wrong").split("### ")[0])
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row[0])]
    return [span for span in spans if " " in span or "…" in span]


def test_every_error_is_said_like_this() -> None:
    program = said()
    shown = sentences()
    assert len(shown) > 30
    assert [each for each in shown if each.removeprefix("…").removesuffix("…").strip() not in program] == []


def test_every_section_that_an_error_names() -> None:
    named = re.findall(r"see (docs/[\w/-]+\.md), ([A-Z]\w*(?: \w+)*)", said())
    assert len(named) >= 3
    assert [(page, title) for page, title in named if title.lower().replace(" ", "-") not in anchors(PAGES[page])] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    assert broken(name) == []


def test_there_are_links_to_follow() -> None:
    found = [link for text in PAGES.values() for link in links(text)]
    assert len(found) > 50
    assert sum(bool(anchor) for _, anchor in found) > 25


def test_a_link_that_leads_nowhere_is_found() -> None:
    pages = {"docs/a.md": "# A\n[b](b.md) [c](../README.md#no-such) [d](#a) [e](#f)\n```\n[g](g.md)\n```\n"}
    assert broken("docs/a.md", PAGES | pages) == ["b.md", "../README.md#no-such", "#f"]


def test_the_readme_is_short() -> None:
    """It is for the first ten minutes; all else has a page of its own."""
    assert len(README.encode()) <= 14 * 1024


def test_every_page_is_found_from_the_readme() -> None:
    """A page that nothing leads to is read by nobody."""
    found: set[str] = set()
    left = {"README.md"}
    while left:
        name = left.pop()
        found.add(name)
        paths = [((ROOT / name).parent / path).resolve() for path, _ in links(PAGES[name]) if path]
        left |= {str(path.relative_to(ROOT)) for path in paths if path.is_relative_to(ROOT)} & PAGES.keys() - found
    assert {name for name in MANUAL if name not in found} == set()


def test_every_file_that_is_named_is_there() -> None:
    text = "\n".join(map(prose, MANUAL.values()))
    named = set(re.findall(r"`((?:deploy|tests|transforms|docs)/[\w./-]*|[A-Z]+\.md)`", text))
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).exists()] == []


# --- the author's unit tests


def test_the_unit_tests_of_the_example_pass(tmp_path: Path) -> None:
    for name, text in (files() | files("Unit tests")).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "-c", os.devnull, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


# --- the example, as its reader would run it --------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A server of its own: the example makes roles."""
    with Cluster(next(iter(installed_binaries()), None)) as made:
        yield made


class Shop:
    """The example: its folder, and connections as the application and as a superuser."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.http = f"{HOST}:{free_port()}"
        self.terminal = Terminal(folder, {"http_listen": self.http, "ready_for": "0.5"})
        for name, text in files().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text.replace("localhost:5432", f"{HOST}:{cluster.port}"))

    def connect(self, user: str, database: str = "app") -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(self.cluster.dsn(database, user=user), autocommit=True)

    def superuser(self, statements: str, database: str = "app") -> None:
        with self.connect("postgres", database) as connected:
            connected.execute(statements.encode())

    def one(self, query: str) -> object:
        with self.connect("app") as connected:
            row = connected.execute(query.encode()).fetchone()
        return row[0] if row else None

    def set_up(self) -> None:
        """An old application, and the manual's roles."""
        self.superuser("CREATE DATABASE app", "postgres")
        self.superuser("CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app;")
        with self.connect("app") as app:
            app.execute(files()["old.sql"].encode())
            app.execute(
                """
                INSERT INTO customers (email, full_name)
                SELECT format('%s@example.org', g), CASE WHEN g % 7 > 0 THEN 'Customer ' || g END
                FROM generate_series(1, 500) g;
                INSERT INTO addresses SELECT id, kind, 'Street ' || id, 'City'
                FROM customers, unnest(ARRAY['billing', 'delivery']) kind WHERE id % 3 > 0;
                INSERT INTO carts (customer_id) SELECT id FROM customers WHERE id % 5 = 0;
                """
            )
        self.superuser(block(section("Roles")))

    def apart(self) -> object:
        """How many customers, e-mail addresses and postal addresses are not the same in both schemas."""
        return self.one(
            """
            SELECT (
                SELECT count(*) FROM customers o FULL JOIN shop.customers n ON n.id = o.id
                WHERE (o.id, o.full_name, o.created_at) IS DISTINCT FROM (n.id, n.name, n.created_at AT TIME ZONE 'UTC')
            ) + (
                SELECT count(*) FROM customers o FULL JOIN shop.emails n ON n.email = o.email
                WHERE o.id IS DISTINCT FROM n.customer_id
            ) + (
                SELECT count(*) FROM addresses o FULL JOIN (
                    SELECT id, kind, address FROM shop.customers, jsonb_each(addresses) AS each (kind, address)
                ) n ON n.id = o.customer_id AND n.kind = o.kind
                WHERE (o.customer_id, jsonb_build_object('street', o.street, 'city', o.city))
                    IS DISTINCT FROM (n.id, n.address)
            )
            """
        )

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://{self.http}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except URLError as error:  # it does not listen yet
            return 0, str(error)


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
    assert "change-me" in files()[".env"]
    assert not any("change-me" in each for each in terminal.said), "the password was printed"


def succeeds(done: Done) -> Done:
    assert done.code == 0, done.said
    return done


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
