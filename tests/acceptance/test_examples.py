"""The examples for applications: they write through every move of the data, and nobody who uses them sees an error."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from replicator.demo.embedded import Cluster, installed_binaries
from tests.acceptance.example import Shop, succeeds
from tests.acceptance.terminal import ROOT, Daemon
from tests.pages import block, section

EXAMPLES = ROOT / "deploy" / "examples"
NODE = shutil.which("node")
NODE_MODULES = ("/usr/share/nodejs", "/usr/local/lib/node_modules", "/usr/lib/node_modules")
"""Where Debian's package and npm put modules that are for everybody."""

Customer = tuple[str, str, str, str]
"""E-mail address, name, street, city."""

HELD = {
    "old": """
        SELECT id, email, full_name, street, city FROM public.customers
        JOIN public.addresses ON customer_id = id AND kind = 'billing' WHERE email LIKE '%-%'
    """,
    "new": """
        SELECT id, email, name, addresses -> 'billing' ->> 'street', addresses -> 'billing' ->> 'city'
        FROM shop.customers JOIN shop.emails ON customer_id = id WHERE email LIKE '%-%'
    """,
}


class Program:
    """One of the examples, as it runs."""

    def __init__(self, command: Sequence[str], dsns: dict[str, str], folder: Path) -> None:
        self._written, self._errors = folder / "written", folder / "errors"
        given = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "REPLICATOR_"))}
        given |= {f"{side.upper()}_DATABASE_URL": dsn for side, dsn in dsns.items()}
        given["NODE_PATH"] = node_path()
        with self._written.open("wb") as written, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=written, stderr=errors, env=given)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has told, one for each write that was done."""
        return [json.loads(line) for line in self._written.read_text().splitlines(keepends=True) if line[-1] == "\n"]

    def writes_to(self, side: str, daemon: Daemon) -> None:
        """Wait until it has written there, a hundred times from now on."""
        before = len(self.lines)

        def written() -> bool:
            assert self.process.poll() is None, self._errors.read_text()
            return [each["side"] for each in self.lines[before:]].count(side) >= 100

        daemon.until(written)

    def stop(self) -> None:
        """End it as its user would; it has met no error."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self._errors.read_text()
        assert self._errors.read_text() == ""

    def expected(self) -> dict[int, Customer]:
        """What the database must hold, if every write that was told is there."""
        known: dict[int, dict[str, str]] = {}
        for line in self.lines:
            if line.get("forgotten"):
                del known[line["customer"]]
            else:
                address = line.get("address", {})
                told = {name: line[name] for name in ("email", "name") if name in line} | address
                known.setdefault(line["customer"], {}).update(told)
        return {number: (each["email"], each["name"], each["street"], each["city"]) for number, each in known.items()}


def node_path() -> str:
    return os.pathsep.join(filter(None, (os.environ.get("NODE_PATH"), *NODE_MODULES)))


def has_pg() -> bool:
    if NODE is None:
        return False
    environment = os.environ | {"NODE_PATH": node_path()}
    return (
        subprocess.run([NODE, "-e", "require('pg')"], check=False, capture_output=True, env=environment).returncode == 0
    )


PYTHON_SHOP = (sys.executable, str(EXAMPLES / "python" / "shop.py"))
NODE_SHOP = (NODE or "node", str(EXAMPLES / "node" / "shop.js"))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with Cluster(next(iter(installed_binaries()), None)) as cluster:
        made = Shop(cluster, tmp_path)
        made.set_up()
        yield made


def second_database(shop: Shop) -> None:
    """A database for the new schema, with the README's roles in it too."""
    shop.superuser("CREATE DATABASE app_new", "postgres")
    roles = block(section("Roles")).replace("DATABASE app ", "DATABASE app_new ")
    shop.superuser("".join(line for line in roles.splitlines(keepends=True) if "CREATE ROLE" not in line), "app_new")
    shop.terminal.settings["target_dsn"] = shop.cluster.dsn("app_new", user="replicator")


def held(dsn: str, side: str) -> dict[int, Customer]:
    with psycopg.connect(dsn, autocommit=True) as opened:
        return {row[0]: (row[1], row[2], row[3], row[4]) for row in opened.execute(HELD[side].encode())}


@contextlib.contextmanager
def running(command: Sequence[str], dsns: dict[str, str], folder: Path) -> Iterator[Program]:
    program = Program(command, dsns, folder)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("command", "databases"),
    [
        pytest.param(PYTHON_SHOP, ("app", "app"), id="python"),
        pytest.param(PYTHON_SHOP, ("app", "app_new"), id="python, two databases"),
        pytest.param(
            NODE_SHOP,
            ("app", "app"),
            id="node",
            marks=pytest.mark.skipif(not has_pg(), reason="wants node, and its module pg (Debian: node-pg)"),
        ),
    ],
)
def test_nobody_sees_an_error_and_no_write_is_lost(
    shop: Shop, tmp_path: Path, command: Sequence[str], databases: tuple[str, str]
) -> None:
    if databases[1] != "app":
        second_database(shop)
    dsns = {side: shop.cluster.dsn(name, user="app") for side, name in zip(("old", "new"), databases, strict=True)}
    with running(command, dsns, tmp_path) as program, shop.terminal.daemon() as daemon:
        daemon.until(lambda: shop.get("/readyz")[0] == 200)
        program.writes_to("old", daemon)
        for move, side in (("cutover", "new"), ("rollback", "old"), ("cutover", "new")):
            moves(shop, daemon, move)
            program.writes_to(side, daemon)
        program.stop()
        expected = program.expected()
        assert len(expected) > 10
        assert held(dsns["new"], "new") == expected
        daemon.until(lambda: held(dsns["old"], "old") == expected)
        succeeds(shop.terminal.run("verify"))
        assert daemon.stop() == 0


def moves(shop: Shop, daemon: Daemon, move: str) -> None:
    """Wait for the gates, and move; a busy machine may want a second attempt."""

    def moved() -> bool:
        done = shop.terminal.run(move, "--wait", "--timeout", "150")
        assert done.code in (0, 3), done.said
        return done.code == 0

    daemon.until(moved)


def test_a_pool_goes_over_with_the_search_path(shop: Shop) -> None:
    """As the examples' README shows it: a connection that is open goes on with the old path, and has to go."""
    shop.superuser("ALTER ROLE replicator CREATEROLE")
    with contextlib.suppress(psycopg.errors.SyntaxError):  # before Postgres 16, CREATEROLE is enough
        shop.superuser("GRANT app TO replicator WITH ADMIN OPTION")
    statement = "UPDATE customers SET created_at = created_at WHERE id = 1"

    def write(db: "psycopg.Connection[Any]") -> object:
        [(schema,)] = db.execute("SELECT current_schema()").fetchall()
        db.execute(statement)
        return schema

    def written() -> object:
        while True:
            with pool.connection() as db:
                try:
                    with db.transaction():
                        return write(db)
                except psycopg.Error as error:
                    if error.sqlstate != "RP002":
                        raise
                    db.close()

    with shop.terminal.daemon() as daemon, ConnectionPool(shop.cluster.dsn("app", user="app"), min_size=2) as pool:
        pool.wait()
        assert written() == "public"
        daemon.until(lambda: shop.get("/readyz")[0] == 200)
        assert shop.terminal.run("cutover", "--wait", "--set-search-path", "app").code == 0
        with pool.connection() as db, pytest.raises(psycopg.Error) as refused:
            db.execute(statement)
        assert refused.value.sqlstate == "RP002"
        assert written() == "shop"


@pytest.mark.skipif(NODE is None, reason="wants node")
def test_the_node_program_can_be_read() -> None:
    subprocess.run([NODE_SHOP[0], "--check", NODE_SHOP[1]], check=True)
