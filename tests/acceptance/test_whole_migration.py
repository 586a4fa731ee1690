"""The whole procedure on a live system, from the first backup to the drop of the old tables, with one way back."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.demo.application import Ids, found
from replicator.demo.embedded import Cluster
from replicator.demo.home import find_home, reference
from replicator.demo.ledger import Ledger
from replicator.demo.new_application import NewApplication
from replicator.demo.presenter import make_show
from replicator.demo.seed import seed
from replicator.demo.stage import Stage
from replicator.demo.verdict import seeded
from replicator.migration import Migration

ROWS, RATE = 1_000, 40
OLD = ("requests", "settings", "admins", "spotify_auth", "event_settings", "oauth_sessions", "notifications")

pytestmark = pytest.mark.timeout(600)


def old_tables(dsn: str) -> set[str]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {row[0] for row in rows}


def leftovers(dsn: str) -> list[Any]:
    """What must be gone in the end."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(
            "SELECT slot_name::text FROM pg_replication_slots UNION ALL SELECT pubname FROM pg_publication "
            "UNION ALL SELECT tgname FROM pg_trigger WHERE tgname = 'replicator_guard'"
        ).fetchall()


def test_from_the_backup_to_the_drop(tmp_path: Path) -> None:
    home = find_home()
    migration = reference(home)
    with make_show(quiet=True) as show, ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        stage = Stage(cluster.dsn(), home, show, patience=200, stack=stack)
        with psycopg.connect(stage.dsn, autocommit=True) as connection:
            seed(connection, home / "sql", ROWS)
            ledger = seeded(connection)
        writers = stage.start_writers(RATE)

        # prepare
        assert stage.command("backup", "--to", str(tmp_path), "--json")
        assert stage.command("check", "--json")["ok"]
        assert stage.command("baseline", "--runs", "5", "--to", str(tmp_path / "baseline.json"), "--json")
        assert stage.command("dry-run", "--json")

        # copy and follow
        stage.start_daemon()
        stage.wait_for(lambda: stage.document["ready"], "all gates are open")
        assert stage.command("verify", "--json")["clean"]

        # there, and back, and there again
        assert stage.command("cutover", "--wait", "--dry-run", "--json")["dry_run"]
        assert stage.command("cutover", "--wait", "--json")["epoch"] == 1
        stage.wait_for(lambda: "party" in writers.tally.transactions, "the writers have moved")
        assert stage.command("smoke", "--json")
        assert stage.command("rollback", "--wait", "--json")["epoch"] == 2
        stage.go_on(1)
        assert stage.command("cutover", "--wait", "--json")["epoch"] == 3
        assert stage.command("smoke", "--json")
        assert stage.command("verify", "--json")["clean"]

        # finish
        daemon, stage.daemon = stage.daemon, None  # it ends by itself
        assert daemon is not None
        assert stage.command("finalize", "--now", "--yes", "--json")["slots"]
        daemon.wait()
        assert leftovers(stage.dsn) == []
        assert stage.command("backup", "--to", str(tmp_path), "--no-restore-test", "--json")
        assert set(OLD) <= old_tables(stage.dsn)
        assert stage.command("cleanup", "--to", str(tmp_path), "--yes", "--json")
        assert not old_tables(stage.dsn) & set(OLD)
        stage.go_on(1)
        ledger.merge(stage.stop_writers())
        assert dict(writers.tally.errors) == {}
        assert all(writers.tally.transactions[schema] for schema in ("public", "party"))
        check_new(stage.dsn, migration, ledger)
        events = {each["event"] for each in stage.command("journal", "--json")["entries"]}
        assert {"start", "phase", "cutover", "rollback", "dry run", "finalized", "backup"} <= events


def check_new(dsn: str, migration: Migration, ledger: Ledger) -> None:
    """The new tables hold what was acknowledged, in whatever schema it was written, and nothing else."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        new = NewApplication(connection, Ids(migration))
        assert ledger.lost(new, found(connection, new)) == []
