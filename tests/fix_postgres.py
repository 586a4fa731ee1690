"""The Postgres servers that tests run against, and a fresh database on one of them for each test.

`servers.py` finds them, once a session, and says which of them a test runs on.

A server is started when the first test asks for it, and stays up for the session.
"""

import contextlib
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from replicator.demo.embedded import Cluster
from tests.servers import (
    EVERY_SERVER,
    HOW_TO_GET_ONE,
    Choice,
    Plugin,
    Source,
    choices_of,
    find_sources,
    missing,
    select,
    server_id,
    servers_for,
)

DROP_SECONDS = 20.0


# --- what tests are given ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running server, and the output plugin that the test is to use on it."""

    version: int
    plugin: Plugin
    admin_dsn: str
    cluster: Cluster | None  # None: not ours to stop

    @property
    def id(self) -> str:
        return server_id(self.version, self.plugin)

    def dsn(self, database: str) -> str:
        return self.cluster.dsn(database) if self.cluster else make_conninfo(self.admin_dsn, dbname=database)


@dataclass(frozen=True)
class Database:
    """A database of one test's own; the DSN is a superuser's."""

    name: str
    dsn: str
    plugin: Plugin
    version: int
    server: Server

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        """A new connection, in autocommit mode."""
        return psycopg.connect(self.dsn, autocommit=True)


class MakeCluster(Protocol):
    """Makes private clusters of the server's Postgres version, for tests that change or break the server itself."""

    def __call__(self, **settings: str) -> Cluster: ...


# --- the fixtures -----------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """The servers of this session that have been started, by their source."""

    stack: contextlib.ExitStack
    started: dict[Source, tuple[str, Cluster | None]]

    def server(self, choice: Choice) -> Server:
        if choice.source not in self.started:
            self.started[choice.source] = choice.source.start(self.stack)
        dsn, cluster = self.started[choice.source]
        return Server(choice.source.version, choice.plugin, dsn, cluster)


CHOICES = pytest.StashKey[list[Choice]]()
MISSING = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers", metavar="IDS", help="run every test against these, such as pg15-wal2json,pg18-pgoutput"
    )
    parser.addoption("--need", metavar="IDS", help="fail at once unless these servers are found; `all` is every one")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--need") or config.getoption("--servers"):
        _choices(config)  # so that naming what is not there fails now


def _choices(config: pytest.Config) -> list[Choice]:
    if CHOICES not in config.stash:
        found = choices_of(find_sources())
        needed = config.getoption("--need")
        select(found, ",".join(EVERY_SERVER) if needed == "all" else needed)
        config.stash[CHOICES] = select(found, config.getoption("--servers"))
        config.stash[MISSING] = [] if config.getoption("--servers") else missing(found)
    return config.stash[CHOICES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        marks = [mark.name for mark in metafunc.definition.iter_markers()]
        found = _choices(metafunc.config)
        choices: Sequence[Choice | None] = servers_for(marks, found, metafunc.config.getoption("--servers")) or [None]
        ids = [choice.id if choice else "no-server" for choice in choices]
        metafunc.parametrize("server", choices, ids=ids, indirect=True, scope="session")


def pytest_report_header(config: pytest.Config) -> list[str]:
    found = ", ".join(choice.id for choice in _choices(config)) or "none found"
    return [f"servers: {found}", *(f"servers: {each}" for each in config.stash[MISSING])]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for each in config.stash.get(MISSING, []):
        terminalreporter.write_line(f"NOT TESTED: {each}", yellow=True)


@pytest.fixture(scope="session")
def _running() -> Iterator[Running]:
    with contextlib.ExitStack() as stack:
        yield Running(stack, {})


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, _running: Running) -> Server:
    """A running server; a test that asks for it runs once for each."""
    if request.param is None:
        pytest.fail(f"No Postgres to test against was found. {HOW_TO_GET_ONE}", pytrace=False)
    return _running.server(request.param)


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """A fresh, empty database; afterwards its connections, slots and prepared transactions are gone with it."""
    with fresh_database(server) as made:
        yield made


@pytest.fixture
def other_database(server: Server) -> Iterator[Database]:
    """Another one on the same server, for a migration from one database to another."""
    with fresh_database(server) as made:
        yield made


@pytest.fixture
def server_cluster(server: Server) -> Cluster:
    """The cluster behind the server, for tests that stop or kill it; the next test finds it up again."""
    if server.cluster is None:
        pytest.skip(f"{server.id} is not ours to stop: it is given by its DSN or by Docker")
    return server.cluster


@pytest.fixture
def make_cluster(server_cluster: Cluster) -> Iterator[MakeCluster]:
    """Makes clusters with settings of the test's own, such as `make_cluster(wal_level="replica")`."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(Cluster(server_cluster.programs, settings=settings))


@contextlib.contextmanager
def fresh_database(server: Server) -> Iterator[Database]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    _up(server)
    with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
        # Files copied, not logged: several times as fast, and there are thousands of tests.
        strategy = sql.SQL("STRATEGY file_copy" if server.version >= 15 else "")
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(sql.Identifier(name), strategy))
        origins = _origins(admin)
    try:
        yield Database(name, server.dsn(name), server.plugin, server.version, server)
    finally:
        _up(server)
        with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
            _drop(admin, server, name, origins)


def _up(server: Server) -> None:
    """Start the server again if a test left it stopped."""
    if server.cluster is not None:
        server.cluster.start()


def _drop(admin: "psycopg.Connection[tuple[object, ...]]", server: Server, name: str, origins: set[str]) -> None:
    """Drop a database with all that holds on to it."""
    _roll_back_prepared(admin, server, name)
    admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
    deadline = time.monotonic() + DROP_SECONDS
    while True:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            admin.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [name]
            )
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            break
        except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject) as error:
            if time.monotonic() > deadline:
                pytest.fail(f"the test's database cannot be dropped: {error}")
            time.sleep(0.05)
    for origin in _origins(admin) - origins:
        if server.cluster is not None or origin.startswith("replicator"):  # on a given server only what is surely ours
            with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                admin.execute("SELECT pg_replication_origin_drop(%s)", [origin])


def _roll_back_prepared(admin: "psycopg.Connection[tuple[object, ...]]", server: Server, name: str) -> None:
    prepared = admin.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name]).fetchall()
    if prepared:
        with psycopg.connect(server.dsn(name), autocommit=True) as connection:
            for (gid,) in prepared:
                connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


def _origins(admin: "psycopg.Connection[tuple[object, ...]]") -> set[str]:
    return {str(name) for (name,) in admin.execute("SELECT roname FROM pg_replication_origin").fetchall()}
