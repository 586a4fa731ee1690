"""The demo's application on a real server, and its judgement: what it says of a migration that was done badly."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from replicator.demo.application import Application, Ids, MissingRowError, found
from replicator.demo.home import find_home
from replicator.demo.ledger import Entry
from replicator.demo.naive import naive_connection
from replicator.demo.new_application import NewApplication
from replicator.demo.old_application import OldApplication
from replicator.demo.seed import ADMINS, seed
from replicator.demo.verdict import Figures, judge, seeded
from replicator.demo.workload import Workload
from tests.engine import reference
from tests.fix_postgres import Database, Running, _choices, fresh_database
from tests.reference_sql import OLD_TABLES, run, run_all
from tests.servers import HOW_TO_GET_ONE
from tests.waiting import wait_until

ROWS = 60
UUID_REQUEST = "(SELECT id::text FROM public.requests WHERE id NOT LIKE 'req%' ORDER BY id LIMIT 1)"


class Party:
    """Old and new schema side by side, with equal rows, and the ledger of what has been written."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.migration = reference()
        self.ids = Ids(self.migration)
        self.connection = database.connect()
        assert seed(self.connection, find_home() / "sql", ROWS)
        self.ledger = seeded(self.connection)
        self.naively("forward")

    def naively(self, direction: Any) -> None:
        """Migrate all rows, by an engine that is too simple to be wrong."""
        with naive_connection(self.database.dsn) as connection:
            if direction == "forward":
                run(connection, "new/10_tables.sql")
            else:
                for table in OLD_TABLES:
                    connection.execute(f"DELETE FROM public.{table}".encode())
            run_all(connection, direction, "party" if direction == "forward" else "public")

    def write(self, application: Application, transactions: int) -> None:
        workload = Workload(found(self.connection, self.old))
        for _ in range(transactions):
            task = workload.next()
            with self.connection.transaction():
                task.run(application)
                if task.rolls_back:
                    raise psycopg.Rollback
            entries = task.entries(application)
            workload.done(entries)
            self.ledger.enter(entries)

    @property
    def old(self) -> OldApplication:
        return OldApplication(self.connection)

    @property
    def new(self) -> NewApplication:
        return NewApplication(self.connection, self.ids)

    def judge(self) -> Figures:
        figures = Figures(postgres=self.database.version, requests=ROWS, rate=0)
        judge(self.database.dsn, self.migration, self.ledger, figures)
        return figures


@pytest.fixture
def database(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    """On one server only, the newest: the demo's own is such a one."""
    choices = _choices(request.config)
    if not choices:
        pytest.fail(f"No Postgres to test against was found. {HOW_TO_GET_ONE}", pytrace=False)
    with fresh_database(_running.server(choices[-1])) as made:
        yield made


@pytest.fixture
def party(database: Database) -> Iterator[Party]:
    made = Party(database)
    with made.connection:
        yield made


def test_a_good_migration_is_found_good(party: Party) -> None:
    figures = party.judge()
    assert figures.good, figures.examples
    assert figures.compared_rows == 2 * (ROWS + len(ADMINS)) + 2 + 2 + 5
    assert figures.keys_written > ROWS


def test_what_is_written_to_the_old_schema_comes_through(party: Party) -> None:
    party.connection.execute("DROP SCHEMA party CASCADE")
    party.write(party.old, 400)
    party.naively("forward")
    figures = party.judge()
    assert figures.good, figures.examples


def test_what_is_written_to_the_new_schema_comes_back(party: Party) -> None:
    """All of it, but for the columns that the old schema has no place for."""
    with naive_connection(party.database.dsn) as connection:
        run(connection, "new/20_indexes.sql", "new/30_constraints.sql")
    party.write(party.new, 400)
    party.naively("reverse")
    figures = party.judge()
    assert figures.good, figures.examples


SABOTAGE = [
    ("DELETE FROM party.requests WHERE id::text = " + UUID_REQUEST, 2, 1),
    ("DELETE FROM public.requests WHERE id = " + UUID_REQUEST, 2, 1),
    ("DELETE FROM public.notifications WHERE id = 'note_1'", 0, 1),
    ("DELETE FROM party.spotify_tokens", 2, 1),
    ("DELETE FROM public.settings WHERE key = 'party_name'", 2, 1),
    ("UPDATE party.requests SET submitted_by = 'Eve' WHERE id::text = " + UUID_REQUEST, 2, 1),
    ("UPDATE party.requests SET legacy = '{}' WHERE id::text = " + UUID_REQUEST, 1, 0),
    ("UPDATE party.requests SET track_data = track_data || '{\"duration_ms\": 1}' WHERE id::text = " + UUID_REQUEST,
     2, 0),
    ("UPDATE public.requests SET created_at = created_at + interval '1 microsecond' WHERE id = " + UUID_REQUEST, 2, 0),
    ("UPDATE party.events SET config = jsonb_set(config, '{settings,party_name}', '\"x\"')", 2, 1),
    ("UPDATE party.events SET version = 1", 1, 0),
    ("INSERT INTO party.admins (email, password_hash) VALUES ('eve', '')", 2, 1),
    # Both sides agree, and both are wrong: only the ledger knows.
    (f"UPDATE public.admins SET password_hash = 'x' WHERE id = '{ADMINS[1]}';"
     f" UPDATE party.admins SET password_hash = 'x' WHERE id = '{ADMINS[1]}'", 0, 2),
]  # fmt: skip


@pytest.mark.parametrize("sabotage, differences, lost", SABOTAGE)
def test_a_bad_migration_is_found_bad(party: Party, sabotage: str, differences: int, lost: int) -> None:
    party.connection.execute(sabotage.encode())
    figures = party.judge()
    assert not figures.good
    assert (figures.divergence, figures.lost_writes) == (differences, lost), figures.examples
    assert len(figures.examples) == differences + lost


def test_only_where_the_new_application_has_written_may_columns_differ_that_the_old_schema_has_not(
    party: Party,
) -> None:
    party.connection.execute("UPDATE party.requests SET rejected_at = now()")
    assert party.judge().divergence == ROWS
    party.ledger.enter([Entry("requests", "req_10", "Ada 10", "party")])
    assert party.judge().divergence == ROWS - 1


# --- the application --------------------------------------------------------------------------------------------------


def test_a_write_to_a_row_that_is_not_there_is_no_success(party: Party) -> None:
    for application in (party.old, party.new):
        for method, *arguments in (
            ("review", "played", "x"), ("correct", "x"), ("withdraw",), ("renumber", "x"), ("log_in", "x"),
            ("activate", False, "x"), ("rename", "x"), ("dismiss",), ("unset",),
        ):  # fmt: skip
            with pytest.raises(MissingRowError, match="nobody's"):
                getattr(application, method)("nobody's", *arguments)


def test_the_tokens_go_with_the_event(party: Party) -> None:
    owner = "SELECT admin_id FROM party.spotify_tokens JOIN party.events ON admin_id = active_admin_id"

    def owners() -> list[str]:
        return [str(row[0]) for row in party.connection.execute(owner.encode())]

    first, second, _ = (party.ids.new("admins", admin) for admin in ADMINS)
    assert owners() == [first]
    party.new.activate(ADMINS[0], active=False, password_hash="x")
    assert owners() == [second]
    party.new.activate(ADMINS[0], active=True, password_hash="x")
    assert owners() == [first]


# --- the writers ------------------------------------------------------------------------------------------------------


def test_writers_begin_with_nothing_and_outlast_a_lost_connection(database: Database) -> None:
    command = [sys.executable, "-m", "replicator.demo.writers", "--dsn", database.dsn, "--rate", "50", "--rows", "100"]
    with database.connect() as connection, subprocess.Popen(command, cwd=find_home()) as process:

        def written() -> int:
            if not connection.execute("SELECT FROM pg_class WHERE relname = 'oauth_sessions'").rowcount:
                return 0
            row = connection.execute(
                "SELECT count(*) FROM public.requests WHERE created_at > now() AT TIME ZONE 'UTC' - interval '1 hour'"
            ).fetchone()
            return int(str(row[0])) if row else 0

        try:
            wait_until(lambda: written() > 3)
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'demo writer'"
                " AND datname = current_database()"
            )
            before = written()
            wait_until(lambda: written() > before + 3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
