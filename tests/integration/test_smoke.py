"""``replicator smoke``: all is well after a cutover, and each planted fault is found."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from replicator import Migration
from replicator.errors import NotReadyError
from replicator.postgres.control.control import Status, read_status
from replicator.postgres.session.connect import Connection
from replicator.preflight import Finding
from replicator.runbook.smoke import smoke
from replicator.settings import Settings
from tests.acceptance.house import OLD, House
from tests.engine import OLD_DDL, execute, make_settings, reference
from tests.fix_postgres import Database
from tests.reference import seed
from tests.sessions import daemon

pytestmark = pytest.mark.one_server


async def found(settings: Settings, migration: Migration) -> dict[str, Finding]:
    return {each.check: each for each in await smoke(settings, migration, lambda _: None)}


def failing(findings: dict[str, Finding]) -> set[str]:
    return {name for name, each in findings.items() if each.outcome == "fail"}


@pytest.fixture
def migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Migration:
    """The reference, with a folder of SQL and probes that the test may change."""
    made = reference()
    folder = tmp_path / "sql"
    shutil.copytree(OLD_DDL.parents[1], folder)
    shutil.rmtree(folder / "probes", ignore_errors=True)
    (folder / "probes" / "new").mkdir(parents=True)
    (folder / "probes" / "new" / "waiting.sql").write_text("SELECT id FROM party.requests WHERE status = 'pending'")
    monkeypatch.setattr(made, "sql", folder)
    return made


@pytest.mark.parametrize("apart", [False, True])
async def test_before_and_after_the_cutover(
    database: Database, other_database: Database, migration: Migration, apart: bool
) -> None:
    seed(database.dsn)
    settings = make_settings(database, other_database if apart else None)
    with pytest.raises(NotReadyError, match="No migration has been started here"):
        await found(settings, migration)
    async with daemon(settings, migration) as running:
        await running.ready()
        with pytest.raises(NotReadyError, match="phase follow"):
            await found(settings, migration)
        await running.cut_over()
        findings = await found(settings, migration)
        assert failing(findings) == set()
        assert {"owner", "probe waiting", "write requests", "write events", "guard", "reverse"} <= findings.keys()
        assert "a row is written over itself" in findings["write requests"].detail
        assert "refuse writes" in findings["guard"].detail


async def test_a_document_of_the_cutover_itself_is_not_taken_for_the_last_word(
    database: Database, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline of the way back becomes active before the phase is stored; the daemon may report in between."""
    seed(database.dsn)
    settings = make_settings(database)
    seen: list[str] = []

    async def first_of_the_cutover(connection: Connection) -> Status | None:
        report = await read_status(connection)
        assert report is not None
        seen.append(report.document["phase"])
        return replace(report, document={**report.document, "phase": "cutover"}) if len(seen) == 1 else report

    monkeypatch.setattr("replicator.runbook.smoke.read_status", first_of_the_cutover)
    async with daemon(settings, migration) as running:
        await running.ready()
        await running.cut_over()
        assert failing(await found(settings, migration)) == set()
    assert len(seen) > 1


async def test_each_fault(
    database: Database, migration: Migration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(database.dsn)
    settings = make_settings(database)
    # The daemon puts a guard back within seconds; here the fault must still be there when smoke looks, and be no reason
    # to compare all rows, which keeps a rollback waiting.
    monkeypatch.setattr("replicator.daemon.session.CLOSED_SECONDS", 3600.0)
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 3600.0)
    async with daemon(settings, migration) as running:
        await running.ready()
        await running.cut_over()
        assert failing(await found(settings, migration)) == set()
        before = content(database.dsn)
        await running.clean()
        await running.until(lambda: running.session.reporter.document["verify"]["clean_at"])

        execute(database.dsn, ["ALTER TABLE party.events ENABLE ALWAYS TRIGGER replicator_guard"])
        findings = await found(settings, migration)
        assert failing(findings) == {"write events"}
        assert "not open for writes" in findings["write events"].detail
        execute(database.dsn, ["ALTER TABLE party.events DISABLE TRIGGER replicator_guard"])

        execute(database.dsn, ["ALTER TABLE public.requests DISABLE TRIGGER replicator_guard"])
        findings = await found(settings, migration)
        assert failing(findings) == {"guard"}
        assert '"public"."requests"' in findings["guard"].detail
        execute(database.dsn, [line for line in findings["guard"].remedy.splitlines() if line.endswith(";")])

        broken = tmp_path / "sql" / "probes" / "new" / "broken.sql"
        broken.write_text("SELECT nothing FROM party.requests")
        assert failing(await found(settings, migration)) == {"probe broken"}
        broken.unlink()

        # A row that the old tables refuse: the way back flows, and a rollback would be refused.
        assert running.active is not None
        quarantine(database.dsn)
        await running.until(lambda: running.session.reporter.document["quarantined"])
        findings = await found(settings, migration)
        assert failing(findings) == {"reverse"}
        assert re.search(r"A rollback would be refused\. .*quarantine: x: 1", findings["reverse"].detail)
        execute(database.dsn, ["DELETE FROM _replicator.quarantine"])
        await running.until(lambda: not running.session.reporter.document["quarantined"])

        with psycopg.connect(database.dsn) as holder, monkeypatch.context() as impatient:
            impatient.setattr("replicator.runbook.smoke.FLOW_SECONDS", 0.5)
            holder.execute("LOCK TABLE _replicator.progress IN EXCLUSIVE MODE")
            assert failing(await found(settings, migration)) == {"reverse"}
        assert failing(await found(settings, migration)) == set()
        assert content(database.dsn) == before, "something was written"
    findings = await found(settings, migration)
    assert failing(findings) == {"reverse"}
    assert "No daemon runs" in findings["reverse"].detail
    execute(database.dsn, ["UPDATE _replicator.ownership SET owner = 'old'"])
    assert failing(await found(settings, migration)) == {"owner", "reverse"}


def quarantine(dsn: str) -> None:
    execute(
        dsn,
        [
            "INSERT INTO _replicator.quarantine (pipeline, transform, source, source_key, error, fingerprint) "
            "VALUES ('reverse', 'x', 'requests', '[\"1\"]', 'No.', '')"
        ],
    )


def content(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as opened:
        return opened.execute(
            "SELECT id::text, xmin::text, 'new' FROM party.requests UNION ALL "
            "SELECT id, status, 'old' FROM public.requests ORDER BY 3, 1"
        ).fetchall()


def test_the_command_before_the_cutover(database: Database, tmp_path: Path) -> None:
    house = House(database.dsn, tmp_path)
    house.execute(OLD)
    done = house.terminal.run("smoke")
    assert done.code == 3
    assert "this is for after the cutover" in done.messages
