"""The Postgres image of `deploy/postgres`, as far as it goes without a container engine: its entry point starts real
servers, its init scripts run on them, and the roles that these make can do what a migration needs, and no more.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psycopg
import pytest
import yaml
from psycopg.conninfo import make_conninfo

from replicator.demo.account import Account, copy_install
from replicator.demo.embedded import HOST, free_port
from replicator.runtime.binaries import has_wal2json, server_version
from tests.servers import binaries_by_version
from tests.waiting import wait_until

pytestmark = pytest.mark.two_servers

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "postgres"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PASSWORDS = {"APP_PASSWORD": "it's the app", "REPLICATOR_PASSWORD": 'it\'s "the" replicator'}
SECONDS = 90

Connection = psycopg.Connection[tuple[object, ...]]


ALL = list(binaries_by_version().values())


def named(binaries: Path) -> str:
    return f"pg{server_version(binaries)}"


def psql_for(binaries: Path) -> Path:
    """Its own, or the newest, which knows all older servers: what npm unpacks has none."""
    return next(folder / "psql" for folder in (binaries, ALL[-1]) if (folder / "psql").exists())


class Image:
    """What the container would run: initdb, the entry point, the init scripts; on binaries that are here."""

    def __init__(self, binaries: Path, folder: Path, account: Account) -> None:
        self.binaries, self.folder, self.account = binaries, folder, account
        self.port, self.http_port = free_port(), free_port()
        stub = folder / "docker-entrypoint.sh"  # the official image's, once the data folder is there
        stub.write_text('#!/bin/sh\nexec "$@"\n')
        stub.chmod(0o755)
        self.entrypoint = folder / "replicator-entrypoint.sh"
        shutil.copy(DEPLOY / "entrypoint.sh", self.entrypoint)

    @contextlib.contextmanager
    def server(self, *options: str) -> Iterator[None]:
        auth = ["--auth-local=trust", "--auth-host=scram-sha-256"]
        self.run(self.binaries / "initdb", "-D", "data", "-U", "postgres", "-E", "UTF8", "--no-sync", *auth)
        command = [self.entrypoint, "postgres", "-D", "data", "-p", str(self.port), "-k", str(self.folder), *options]
        with subprocess.Popen(command, **self.options()) as process:  # type: ignore[call-overload]
            try:
                self.wait(process)
                yield
            finally:
                process.send_signal(signal.SIGINT)  # what the official image is stopped with

    def options(self) -> dict[str, object]:
        path = os.pathsep.join([str(self.folder), str(self.binaries), os.environ["PATH"]])
        return {"cwd": self.folder, "env": {"PATH": path, "LC_ALL": "C", **PASSWORDS}, **self.account.options()}

    def run(self, *command: str | Path) -> str:
        done = subprocess.run(  # type: ignore[call-overload]
            command, check=False, capture_output=True, text=True, timeout=SECONDS, **self.options()
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        def connected() -> bool:
            try:
                self.connect("postgres").close()
            except psycopg.OperationalError:
                assert process.poll() is None, "the server did not start"
                return False
            return True

        wait_until(connected)

    def init(self, database: str = "app") -> None:
        """Do what the official image does with its init scripts."""
        psql: list[str | Path] = [
            psql_for(self.binaries),
            "-X",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            str(self.folder),
            "-p",
            str(self.port),
        ]
        self.run(*psql, "-U", "postgres", "-c", f"CREATE DATABASE {database}")
        for script in sorted((DEPLOY / "initdb").iterdir()):
            shutil.copy(script, self.folder)
            self.run(*psql, "-U", "postgres", "-d", database, "-f", self.folder / script.name)

    def connect(self, user: str, database: str = "postgres", **options: str) -> Connection:
        where = {"host": str(self.folder)} if user == "postgres" else {"host": HOST}
        where |= {"port": str(self.port), "user": user, "dbname": database, **options}
        password = PASSWORDS.get(f"{user.upper()}_PASSWORD")
        return psycopg.connect(make_conninfo(password=password, **where), autocommit=True)


@pytest.fixture(scope="module", params=ALL, ids=named)
def binaries(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@contextlib.contextmanager
def image_of(binaries: Path) -> Iterator[Image]:
    account = Account.find()
    folder = account.temporary_folder("replicator-image-")
    try:
        if not account.reaches([binaries / "initdb", "--version"]):
            binaries = copy_install(binaries, folder / "install", account)
        yield Image(binaries, folder, account)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def running(binaries: Path) -> Iterator[Image]:
    with image_of(binaries) as image, image.server():
        image.init()
        with image.connect("app", "app") as app:
            app.execute((ROOT / "sql" / "old" / "10_tables.sql").read_bytes())
            app.execute("INSERT INTO settings (key, value) VALUES ('party_name', 'old')")
        yield image


@pytest.fixture
def replicator(running: Image) -> Iterator[Connection]:
    with running.connect("replicator", "app") as connection:
        yield connection


def test_options_of_the_command_win_over_those_of_the_entry_point(binaries: Path) -> None:
    with (
        image_of(binaries) as image,
        image.server("-c", "max_wal_senders=7"),
        image.connect("postgres") as admin,
    ):
        shown = [admin.execute(query).fetchone() for query in ("SHOW wal_level", "SHOW max_wal_senders")]
    assert shown == [("logical",), ("7",)]


def test_the_replicator_may_use_every_plugin_that_is_there(running: Image, replicator: Connection) -> None:
    plugins = ["pgoutput", *(["wal2json"] if has_wal2json(running.binaries) else [])]
    for plugin in plugins:
        replicator.execute("SELECT pg_create_logical_replication_slot(%s, %s)", [f"slot_{plugin}", plugin])
    slots = replicator.execute("SELECT plugin FROM pg_replication_slots ORDER BY 1").fetchall()
    assert [plugin for (plugin,) in slots] == plugins


def test_the_replicator_may_stream(running: Image, replicator: Connection) -> None:
    replicator.execute("SELECT pg_create_logical_replication_slot('replicator', 'pgoutput')")
    with running.connect("replicator", "app", replication="database") as walsender:
        identity = walsender.execute("IDENTIFY_SYSTEM").fetchone()
    assert identity is not None
    assert identity[3] == "app"


def test_the_replicator_may_do_all_of_a_migration(replicator: Connection) -> None:
    replicator.execute(files("replicator.postgres.control").joinpath("control.sql").read_bytes())
    replicator.execute((ROOT / "sql" / "new" / "10_tables.sql").read_bytes())
    replicator.execute("CREATE PUBLICATION replicator FOR TABLE public.settings, public.requests")
    replicator.execute("CREATE PUBLICATION replicator_reverse FOR TABLE party.requests")
    for call in ("origin_create", "origin_session_setup", "origin_oid"):
        replicator.execute(f"SELECT pg_replication_{call}('replicator')".encode())
    replicator.execute("SELECT pg_replication_origin_session_is_setup()")
    with replicator.transaction():
        replicator.execute("SELECT pg_replication_origin_xact_setup('0/10', now())")
        replicator.execute("LOCK TABLE public.settings IN SHARE ROW EXCLUSIVE MODE")
        replicator.execute("SELECT pg_logical_emit_message(true, 'replicator', 'marker')")
        replicator.execute(
            "CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON public.settings "
            "FOR EACH STATEMENT WHEN (current_setting('replicator.pass', true) IS NULL) "
            "EXECUTE FUNCTION _replicator.refuse_write('old', 'party', 'public')"
        )
    replicator.execute("SELECT pg_replication_origin_session_reset()")
    replicator.execute("SELECT pg_replication_origin_drop('replicator')")
    replicator.execute("SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets")
    replicator.execute("UPDATE public.settings SET value = 'back'")
    assert replicator.execute("SELECT value FROM public.settings").fetchall() == [("back",)]


def test_the_replicator_sees_what_it_has_to_wait_for(running: Image, replicator: Connection) -> None:
    with running.connect("postgres", "app") as other, other.transaction():
        other.execute("SELECT 'slow'")
        query = "SELECT query FROM pg_stat_activity WHERE pid = %s"
        assert replicator.execute(query, [other.info.backend_pid]).fetchall() == [("SELECT 'slow'",)]


@pytest.mark.parametrize(
    "forbidden",
    [
        "CREATE ROLE another",
        "CREATE DATABASE another",
        "SELECT rolpassword FROM pg_authid",
        "SELECT pg_read_file('postgresql.conf')",
        "ALTER SYSTEM SET wal_level = minimal",
        "SET session_replication_role = replica",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_replication_origin_advance('replicator', '0/10')",
    ],
)
def test_the_replicator_may_do_no_more(replicator: Connection, forbidden: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        replicator.execute(forbidden.encode())


def test_the_application_may_use_the_new_schema_and_ask_which_is_active(running: Image, replicator: Connection) -> None:
    for name in ("control.sql", "grants.sql"):
        with replicator.transaction():
            replicator.execute(files("replicator.postgres.control").joinpath(name).read_bytes())
    replicator.execute((ROOT / "sql" / "new" / "10_tables.sql").read_bytes())
    replicator.execute("INSERT INTO _replicator.ownership VALUES (true, 'party', 'public', 'party')")
    with running.connect("app", "app") as app:
        app.execute("INSERT INTO party.admins (email, password_hash) VALUES ('a', 'b')")
        app.execute("UPDATE party.admins SET name = email")
        app.execute("DELETE FROM party.admins")
        assert app.execute("SELECT replicator.active_schema()").fetchall() == [("public",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("UPDATE _replicator.ownership SET owner = 'new'")


def located(text: str, image: Image) -> str:
    """A connection string of the compose file, with the place where the server is."""
    return text.replace("host=postgres", f"host={HOST} port={image.port}")


def daemon_environment(image: Image) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "REPLICATOR_SOURCE_DSN": located(
            COMPOSE["services"]["replicator"]["environment"]["REPLICATOR_SOURCE_DSN"], image
        ),
        "REPLICATOR_HTTP_LISTEN": f"{HOST}:{image.http_port}",
        "REPLICATOR_READY_FOR": "0.5",
        "PGPASSWORD": PASSWORDS["REPLICATOR_PASSWORD"],
    }


@contextlib.contextmanager
def daemon(image: Image) -> Iterator[None]:
    command = [sys.executable, "-m", "replicator", "run"]
    with subprocess.Popen(command, cwd=ROOT, env=daemon_environment(image)) as process:
        try:
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def writers(image: Image) -> Iterator["subprocess.Popen[bytes]"]:
    service = COMPOSE["services"]["writers"]
    assert service["entrypoint"][0] == "python"
    command = [sys.executable, *service["entrypoint"][1:], *(located(word, image) for word in service["command"])]
    command[-1] = "20"  # transactions a second
    env = {"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORDS["APP_PASSWORD"]}
    with subprocess.Popen(command, cwd=ROOT, env=env) as process:
        try:
            yield process
        finally:
            process.terminate()


def replicate(image: Image, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "replicator", *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=SECONDS,
        env=daemon_environment(image),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def is_ready(image: Image) -> bool:
    try:
        with urlopen(f"http://{HOST}:{image.http_port}/readyz", timeout=10) as response:
            return bool(response.status == 200)
    except URLError:  # not there yet, or 503
        return False


@pytest.mark.timeout(600)
@pytest.mark.parametrize("binaries", ALL[-1:], ids=named)  # privileges, which differ by version, are tested on each
def test_what_the_compose_file_starts_migrates_in_the_roles_of_the_init_scripts(binaries: Path) -> None:
    with image_of(binaries) as image, image.server():
        image.init()
        with image.connect("app", "app") as app, writers(image) as application:

            def holds(query: str) -> bool:
                row = app.execute(query.encode()).fetchone()
                return row is not None and row[0] is True

            wait_until(lambda: holds("SELECT to_regclass('public.requests') IS NOT NULL"))
            replicate(image, "check")
            with daemon(image):
                wait_until(lambda: is_ready(image))
                replicate(image, "cutover", "--wait")
                assert holds("SELECT replicator.active_schema() = 'party'")
                app.execute("INSERT INTO party.admins (email, password_hash) VALUES ('born in the new schema', 'x')")
                wait_until(lambda: holds("SELECT true FROM admins WHERE username = 'born in the new schema'"))
                wait_until(lambda: holds("SELECT max(created_at) > now() - interval '2 s' FROM party.requests"))
                assert application.poll() is None


def test_the_writers_are_healthy_once_the_old_schema_is_filled(running: Image) -> None:
    kind, python, *arguments = COMPOSE["services"]["writers"]["healthcheck"]["test"]
    assert (kind, python) == ("CMD", "python")
    code = [word.replace("host=postgres", f"host={HOST} port={running.port}") for word in arguments]
    env = {"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORDS["APP_PASSWORD"]}

    def healthy() -> bool:
        return subprocess.run([sys.executable, *code], check=False, env=env, timeout=SECONDS).returncode == 0

    with running.connect("app", "app") as app:
        app.execute("DELETE FROM requests")
        assert not healthy()
        app.execute(
            "INSERT INTO requests (id, track_uri, track_name, artist_name, duration_ms, requester_ip_hash) "
            "VALUES ('1', 'u', 't', 'a', 1, 'h')"
        )
        assert healthy()
        app.execute("ALTER TABLE requests RENAME TO elsewhere")
        assert not healthy()
        app.execute("ALTER TABLE elsewhere RENAME TO requests")


@pytest.mark.parametrize("missing", PASSWORDS)
def test_a_missing_password_stops_the_set_up(running: Image, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delitem(PASSWORDS, missing)
    with pytest.raises(AssertionError, match=f"Set {missing}, the password of the role"):
        running.init(f"without_{missing.lower()}")
