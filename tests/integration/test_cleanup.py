"""The end of the old tables: refused too early, archived so that they can be made again, and dropped all or none."""

import asyncio
import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from replicator import Migration
from replicator.errors import CheckError, LeaseError, NotReadyError
from replicator.postgres.catalog.backups import program_environment
from replicator.postgres.control import control
from replicator.postgres.control.lease import Lease
from replicator.postgres.ddl.archives import copy_out
from replicator.postgres.session.connect import connection
from replicator.runbook import cleanup
from replicator.runbook.backup import archive as archiving
from replicator.runbook.backup import back_up
from replicator.runbook.backup.archive import Archive
from replicator.runbook.backup.programs import BackupError
from replicator.runbook.cleanup import clean_up, plan
from replicator.runbook.finish import finalize
from replicator.runtime.binaries import dump_programs
from tests.acceptance.terminal import Terminal
from tests.checking import one_database
from tests.engine import make_settings, reference
from tests.fix_postgres import Database, Running
from tests.sessions import soaking
from tests.waiting import until

pytestmark = pytest.mark.two_servers

OLD = """
CREATE TABLE people (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "Full Name" text, photo bytea, tags text[],
    shout text GENERATED ALWAYS AS (upper("Full Name")) STORED, best_friend integer REFERENCES people, born timestamp
);
CREATE TABLE visits (id bigserial, at date, person integer REFERENCES people, weight float8, PRIMARY KEY (id, at))
    PARTITION BY RANGE (at);
CREATE TABLE visits_old PARTITION OF visits FOR VALUES FROM ('2000-01-01') TO ('2024-01-01');
CREATE TABLE "Visits; new" PARTITION OF visits FOR VALUES FROM ('2024-01-01') TO ('2030-01-01');
CREATE TABLE \"Odd/'Name\"\"\" (id integer PRIMARY KEY, note text);
CREATE TABLE empty (id integer);
CREATE TABLE others (id integer PRIMARY KEY);
CREATE FUNCTION helps() RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE INDEX people_born ON people (born);
INSERT INTO people ("Full Name", photo, tags, born)
    SELECT CASE WHEN g % 5 > 0 THEN E'Na\\tme\\n\\\\.\\r' || g END, decode(md5(g::text), 'hex'),
           ARRAY['a,b', NULL, '"', '\\'], CASE g % 3 WHEN 0 THEN '-infinity' ELSE timestamp '1999-12-31' END
    FROM generate_series(1, 400) g;
UPDATE people SET best_friend = id - 1 WHERE id > 1;
INSERT INTO visits (at, person, weight) SELECT date '2020-01-01' + g * 10, g, pi() / g FROM generate_series(1, 300) g;
INSERT INTO \"Odd/'Name\"\"\" VALUES (1, 'x');
"""
TABLES = ["Odd/'Name\"", "empty", "people", "visits"]
CONTENT = "SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {} t"


def migration(folder: Path | None = None) -> Migration:
    made = Migration("small", old="public", new="store", sql=folder)
    for table in (*TABLES, "gone_already"):
        made.retire(table, because="for the test")
    return made


@pytest.fixture
def one(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    """The migration is over, on one server only."""
    with one_database(request.config, _running) as made:
        asyncio.run(over(made))
        yield made


@pytest.fixture
def two(request: pytest.FixtureRequest, _running: Running) -> Iterator[tuple[Database, Database]]:
    """Two databases without a migration, on one server only."""
    with one_database(request.config, _running) as old, one_database(request.config, _running) as new:
        yield old, new


async def over(database: Database) -> None:
    with database.connect() as old:
        old.execute(OLD.encode())
    async with connection(database.dsn, "test") as opened:
        await control.install(opened, migration())
        await opened.execute("UPDATE _replicator.ownership SET owner = 'new', epoch = 1, since = clock_timestamp()")
        await control.write_phase(opened, "finalized")
        await opened.execute(
            "INSERT INTO _replicator.journal (event, details) VALUES ('backup', jsonb_build_object("
            "'taken_at', clock_timestamp(), 'folder', '/backups/one', 'restore_tested', true))"
        )


def silent(*_: Any) -> None:
    """Nobody watches."""


async def clean(database: Database, folder: Path) -> Archive:
    _, made = await clean_up(make_settings(database), migration(), folder, silent, silent)
    return made


def there(database: Database) -> list[str]:
    with database.connect() as opened:
        rows = opened.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
            'AND NOT relispartition ORDER BY relname COLLATE "C"'
        ).fetchall()
    return [str(name) for (name,) in rows]


ALL = sorted([*TABLES, "others"])


def content(database: Database, table: str) -> object:
    with database.connect() as opened:
        opened.execute("SET extra_float_digits = 3")
        return opened.execute(sql.SQL(CONTENT).format(sql.Identifier("public", table))).fetchone()


def in_folder(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_what_is_dropped_can_be_made_again(database: Database, other_database: Database, tmp_path: Path) -> None:
    await over(database)
    before = {table: content(database, table) for table in TABLES}
    made = await clean(database, tmp_path)
    assert there(database) == ["others"]
    with database.connect() as opened:
        assert opened.execute("SELECT helps(), to_regclass('visits_id_seq')").fetchone() == (1, None)
    assert in_folder(tmp_path) == [made.folder]
    manifest = json.loads((made.folder / "manifest.json").read_text())
    rows = {each["table"]: each["rows"] for each in manifest["tables"]}
    assert rows == {"public.Odd/'Name\"": 1, "public.empty": 0, "public.people": 400, "public.visits": 300}
    assert list(rows).index("public.people") < list(rows).index("public.visits"), "parents first"

    await restore(other_database, made.folder, manifest)
    assert {table: content(other_database, table) for table in TABLES} == before
    with other_database.connect() as opened:
        assert opened.execute("SELECT nextval('visits_id_seq'), nextval('people_id_seq')").fetchone() == (301, 401)
        assert opened.execute('SELECT count(*) FROM "Visits; new"').fetchone() != (0,)


async def restore(database: Database, folder: Path, manifest: dict[str, Any]) -> None:
    """As the manifest says."""
    async with connection(database.dsn, "test") as opened:
        environment = program_environment(opened)
    environment["PATH"] = f"{dump_programs(database.version)}:{environment['PATH']}"
    for each in manifest["tables"]:
        for command in each["restore"]:
            run = command.replace("DATABASE", database.name)
            done = subprocess.run(  # noqa: ASYNC221
                ["/bin/sh", "-c", run], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{run}\n{done.stderr}"


async def test_the_reference_migration_from_the_soak_to_the_end(two: tuple[Database, Database], tmp_path: Path) -> None:
    old, new = two
    settings = make_settings(old, new)
    await soaking(old, settings)
    with pytest.raises(NotReadyError, match="the phase is soak") as refused:
        await clean_up(settings, reference(), tmp_path, silent, silent)
    assert refused.value.remedy == (
        "It ends with `replicator finalize`, after the cutover and the soak. "
        "There is no backup younger than the cutover. Make one: `replicator backup`."
    )
    await finalize(settings, reference(), nobody, now=True)
    with pytest.raises(NotReadyError, match=r"^There is no backup younger than the cutover\. Make one"):
        await clean_up(settings, reference(), tmp_path, silent, silent)
    await back_up(settings, reference(), tmp_path, silent, test=False)
    _, made = await clean_up(settings, reference(), tmp_path, silent, silent)
    assert len(made.fingerprints) == 7
    assert made.fingerprints["public.requests"].rows == 300
    assert there(old) == []
    with new.connect() as opened:
        assert opened.execute("SELECT count(*) FROM party.requests").fetchone() == (300,)
        opened.execute("DELETE FROM party.requests")


async def nobody(_: str) -> None:
    """Report to nobody."""


async def test_the_journal_knows_the_archive_and_what_went(one: Database, tmp_path: Path) -> None:
    made = await clean(one, tmp_path)
    with one.connect() as opened:
        found = opened.execute("SELECT event, details FROM _replicator.journal ORDER BY id DESC LIMIT 2").fetchall()
    (_, done), (event, archive) = found
    assert event == "archive"
    assert archive["folder"] == str(made.folder)  # type: ignore[index]
    assert archive["manifest_sha256"] == made.manifest_sha256  # type: ignore[index]
    assert (done["command"], done["exit_code"]) == ("cleanup", 0)  # type: ignore[index]
    assert sorted(done["result"]["dropped"]) == sorted(f"public.{each}" for each in TABLES)  # type: ignore[index]
    assert done["result"]["freed_bytes"] > 100_000  # type: ignore[index]


@pytest.mark.parametrize(
    "change, said",
    [
        ("UPDATE _replicator.state SET phase = 'soak'", "the phase is soak"),
        ("UPDATE _replicator.ownership SET owner = 'old'", "The old schema owns the data"),
        ("DELETE FROM _replicator.journal", "no backup younger than the cutover"),
        ("UPDATE _replicator.ownership SET since = clock_timestamp()", "no backup younger than the cutover"),
        ("UPDATE _replicator.ownership SET migration = 'next'", "in the middle of the migration next"),
    ],
)
async def test_too_early(one: Database, tmp_path: Path, change: str, said: str) -> None:
    with one.connect() as opened:
        opened.execute(change.encode())
    with pytest.raises(NotReadyError, match=said):
        await clean(one, tmp_path)
    assert there(one) == ALL
    assert in_folder(tmp_path) == []


async def test_a_real_backup_counts(one: Database, tmp_path: Path) -> None:
    with one.connect() as opened:
        opened.execute("DELETE FROM _replicator.journal")
    made = await back_up(make_settings(one), migration(), tmp_path, silent, test=False)
    planned = await plan(make_settings(one), migration())
    assert planned.obstacles == []
    assert planned.backup is not None
    assert (planned.backup.folder, planned.backup.restore_tested) == (str(made.folder), False)


DEPENDENTS = {
    "view public.names": 'CREATE VIEW names AS SELECT "Full Name" FROM people',
    "view public.years": "CREATE MATERIALIZED VIEW years AS SELECT at FROM visits",
    "constraint others_person on table public.others": "ALTER TABLE others ADD person integer "
    "CONSTRAINT others_person REFERENCES people",
    "function public.counts()": "CREATE FUNCTION counts() RETURNS bigint LANGUAGE sql BEGIN ATOMIC "
    "SELECT count(*) FROM people; END",
    "column whole of table public.others": "ALTER TABLE others ADD whole people",
    "default value for column id of table public.others": "ALTER TABLE others ALTER id "
    "SET DEFAULT nextval('visits_id_seq')",
    "function public.writes(public.people)": "CREATE FUNCTION writes(people) RETURNS text LANGUAGE sql "
    "AS 'SELECT $1::text'",
    # Postgres would drop it with the table, and say nothing.
    "trigger late on public.others": "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql "
    "AS 'BEGIN RETURN NULL; END'; CREATE CONSTRAINT TRIGGER late AFTER INSERT ON others FROM people "
    "FOR EACH ROW EXECUTE FUNCTION nothing()",
    "view public.of_a_partition": "CREATE VIEW of_a_partition AS SELECT * FROM visits_old",
}


@pytest.mark.parametrize("name", DEPENDENTS)
async def test_what_else_depends_on_an_old_table_is_named_and_keeps_it(
    one: Database, tmp_path: Path, name: str
) -> None:
    with one.connect() as opened:
        opened.execute(DEPENDENTS[name].encode())
    with pytest.raises(NotReadyError) as refused:
        await clean(one, tmp_path)
    assert name in refused.value.problem
    assert there(one) == ALL
    assert in_folder(tmp_path) == []


async def test_tables_that_depend_on_each_other_go_together(one: Database, tmp_path: Path) -> None:
    with one.connect() as opened:
        opened.execute("ALTER TABLE people ADD last bigint; ALTER TABLE empty ADD PRIMARY KEY (id)")
        opened.execute("ALTER TABLE people ADD FOREIGN KEY (best_friend) REFERENCES empty NOT VALID")
        opened.execute("ALTER TABLE empty ADD FOREIGN KEY (id) REFERENCES people")
    await clean(one, tmp_path)
    assert there(one) == ["others"]


@pytest.mark.parametrize("fault", ["truncate", "flip", "other content", "lose a row"])
async def test_a_damaged_archive_is_seen_before_anything_is_dropped(
    one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    write = archiving._write

    async def damage(source: Any, folder: Path, table: Any) -> dict[str, Any]:
        described = await write(source, folder, table)
        if table.name == "people":
            path = folder / described["file"]
            content = path.read_bytes()
            if fault == "truncate":
                path.write_bytes(content[:-100])
            elif fault == "other content":
                path.write_bytes(gzip.compress(gzip.decompress(content).replace(b"1999", b"1998")))
            else:
                path.write_bytes(content[:3000] + bytes([content[3000] ^ 1]) + content[3001:])
        return described

    async def lose(*given: Any) -> Any:
        async for data in copy_out(*given):
            if not data.startswith(b"7\t"):
                yield data

    if fault == "lose a row":
        monkeypatch.setattr(archiving, "copy_out", lose)
    else:
        monkeypatch.setattr(archiving, "_write", damage)
    with pytest.raises(BackupError, match=r"The archive of public\.people "):
        await clean(one, tmp_path)
    assert there(one) == ALL
    assert in_folder(tmp_path) == []


@pytest.mark.parametrize(
    "change, said",
    [
        ("UPDATE people SET \"Full Name\" = 'other' WHERE id = 7", "public.people has changed"),
        ("DELETE FROM visits WHERE id = 7", "public.visits has changed"),
        ("INSERT INTO empty VALUES (1)", "public.empty has changed"),
        ("CREATE VIEW late AS SELECT * FROM people", "view public.late"),
        ("UPDATE _replicator.ownership SET owner = 'old'", "The old schema owns the data"),
    ],
)
async def test_what_happens_after_the_archive_keeps_the_tables(
    one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, said: str
) -> None:
    async def archive_then_change(*given: Any) -> Archive:
        made = await archiving.make_archive(*given)
        with one.connect() as opened:
            opened.execute(change.encode())
        return made

    monkeypatch.setattr(cleanup, "make_archive", archive_then_change)
    with pytest.raises(CheckError, match=said):
        await clean(one, tmp_path)
    assert there(one) == ALL
    assert len(in_folder(tmp_path)) == 1, "the archive stays"


async def test_the_lock_is_asked_for_in_short_turns(
    one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr("replicator.postgres.locking.locks.BETWEEN_TURNS", 0.05)
    monkeypatch.setattr(cleanup, "TRIES", 2)
    with psycopg.connect(one.dsn) as holder:
        holder.execute("SELECT * FROM visits")
        with pytest.raises(CheckError, match="could not be locked"):
            await clean(one, tmp_path)
        assert there(one) == ALL
        monkeypatch.setattr(cleanup, "TRIES", 1000)
        cleaning = asyncio.create_task(clean(one, tmp_path / "again"))
        async with connection(one.dsn, "test") as looking:
            query = b"SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"

            async def asked_for() -> bool:
                return await (await looking.execute(query)).fetchone() is not None

            await until(asked_for)
        holder.rollback()
        await cleaning
    assert there(one) == ["others"]


async def test_not_while_a_daemon_runs(one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.postgres.control.lease.TRIES", 2)
    lease = await Lease.acquire(one.dsn)
    try:
        with pytest.raises(LeaseError):
            await clean(one, tmp_path)
    finally:
        await lease.release()
    assert there(one) == ALL


def test_the_command(one: Database, tmp_path: Path) -> None:
    names = ", ".join(map(repr, TABLES))
    (tmp_path / "moves.py").write_text(
        "from replicator import Migration\nmigration = Migration('small', old='public', new='store')\n"
        f"for table in ({names}):\n    migration.retire(table, because='for the test')\n"
    )
    terminal = Terminal(tmp_path, {"source_dsn": one.dsn, "migration": "moves:migration"})
    with one.connect() as opened:
        opened.execute("CREATE VIEW names AS SELECT id FROM people")
        done = terminal.run("cleanup", "--dry-run")
        assert done.code == 3
        assert "in the way: The old tables are still needed by: view public.names." in done.output
        assert "stays in the old schema: function public.helps(), table public.others, view public.names" in done.output
        opened.execute("DROP VIEW names")
    done = terminal.run("cleanup", "--dry-run")
    assert done.code == 0
    assert 'sequence public.visits_id_seq, partition public."Visits; new", partition public.visits_old' in done.output
    assert "backup since the cutover: /backups/one, restore-tested" in done.output
    done = terminal.run("cleanup")
    assert (done.code, there(one)) == (2, ALL)
    assert "Add --yes" in done.messages
    answer = terminal.json("cleanup", "--yes", "--to", str(tmp_path / "archives"))
    assert (answer["dropped"], there(one)) == (True, ["others"])
    assert Path(answer["archive"]).parent == tmp_path / "archives"
    done = terminal.run("cleanup")
    assert (done.code, done.output) == (0, "No old table is left to drop.\n")
