"""``cutover --strategy rename`` as an operator meets it: the commands, and a daemon that is killed in the middle."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.terminal import Daemon, Terminal
from tests.fix_postgres import Database
from tests.same_names import create_old, same_names

pytestmark = [pytest.mark.one_server, pytest.mark.timeout(300)]

MIGRATION = """
from pathlib import Path
from tests.same_names import same_names
migration = same_names(Path(__file__).parent / "sql")
"""


@pytest.fixture
def terminal(database: Database, tmp_path: Path) -> Iterator[Terminal]:
    create_old(database.dsn)
    same_names(tmp_path / "sql")
    (tmp_path / "moves.py").write_text(MIGRATION)
    made = Terminal(
        tmp_path,
        {
            "source_dsn": database.dsn,
            "migration": "moves:migration",
            "plugin": database.plugin,
            "slot": f"s_{database.name}",
            "http_listen": "127.0.0.1:0",
            "ready_for": "0.5",
        },
    )
    yield made
    with psycopg.connect(database.dsn, autocommit=True) as left:
        left.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")


def phase(terminal: Terminal) -> str:
    found: str = terminal.json("status")["phase"]
    return found


def until_up(daemon: Daemon) -> None:
    daemon.until(lambda: "following" in daemon.log)


def test_killed_before_and_after_the_commit(database: Database, terminal: Terminal) -> None:
    place = "SELECT array_agg(relname::text ORDER BY relname) FROM pg_class WHERE relname ~ '^(people|notes)(_old)?$'"
    cutover = ("cutover", "--wait", "--strategy", "rename")
    with terminal.daemon(failpoint="cutover_committing:1:kill") as daemon:
        until_up(daemon)
        assert terminal.run(*cutover).code != 0
        assert daemon.process.wait(60) < 0
    with psycopg.connect(database.dsn, autocommit=True) as asking:
        assert asking.execute(place.encode()).fetchone() == (["notes", "notes", "people", "people"],)
        with terminal.daemon(failpoint="cutover_committed:1:kill") as daemon:
            until_up(daemon)
            assert phase(terminal) != "soak"
            assert terminal.run(*cutover).code != 0
            assert daemon.process.wait(60) < 0
        assert asking.execute(place.encode()).fetchone() == (["notes", "notes_old", "people", "people_old"],)
        asking.execute("UPDATE people SET name = 'killed' WHERE id = 1")
        with terminal.daemon() as daemon:
            daemon.until(lambda: asking.execute("SELECT name FROM people_old WHERE id = 1").fetchone() == ("killed",))
            daemon.until(lambda: phase(terminal) == "soak")
            smoke = terminal.run("smoke")
            assert smoke.code == 0, smoke.said
            assert terminal.run("check").code == 0
            rolled_back = terminal.run("rollback", "--wait")
            assert rolled_back.code == 0, rolled_back.said
            assert asking.execute("SELECT name FROM people WHERE id = 1").fetchone() == ("killed",)
            asking.execute("CREATE VIEW everybody AS SELECT name FROM public.people")
            done = terminal.run(*cutover)
            assert done.code == 0, done.said
            assert "These go on using the old tables: view public.everybody." in " ".join(done.output.split())
            assert daemon.stop() == 0
