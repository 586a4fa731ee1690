"""Each check of tables and rights: the condition is made on a real database, the remedy is followed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import ALL, Query, Row
from tests.checking import OLD, check, follow_remedy, outcomes, tiny
from tests.fix_postgres import Database

pytestmark = pytest.mark.every_server


@pytest.fixture
def old(database: Database) -> Database:
    with database.connect() as connected:
        connected.execute(OLD)
    return database


async def test_what_the_log_does_not_tell(old: Database, tmp_path: Path) -> None:
    with old.connect() as connected:
        connected.execute(
            """
            ALTER TABLE old.people REPLICA IDENTITY NOTHING;
            ALTER TABLE old.people ADD photo oid;
            CREATE SCHEMA elsewhere;
            CREATE TABLE elsewhere.guests () INHERITS (old.people);
            ALTER TABLE old.visits SET UNLOGGED;
            ALTER TABLE old.visits DROP CONSTRAINT visits_pkey, ADD CONSTRAINT late PRIMARY KEY (id) DEFERRABLE;
            """
        )
    found = await check(old, tiny(tmp_path))
    expected = {"keys", "replica_identity", "inheritance", "logged"}
    failed = {f"old_tables.{name}" for name in expected} | {"forward.transforms", "reverse.transforms"}
    assert outcomes(found, "fail") == failed
    assert "old_tables.large_objects" in outcomes(found, "warn")
    assert "old.people (photo)" in found["old_tables.large_objects"].detail
    assert "old.people, old.visits" in found["old_tables.replica_identity"].detail
    assert "the primary key of old.visits is deferrable" in found["old_tables.keys"].detail

    for name in ("keys", "replica_identity", "inheritance", "logged"):
        follow_remedy(old.dsn, found[f"old_tables.{name}"])
    found = await check(old, tiny(tmp_path))
    assert outcomes(found, "fail") == set()
    assert "people.photo" in found["forward.unread_columns"].detail


async def test_replica_identities(old: Database, tmp_path: Path) -> None:
    with old.connect() as connected:
        connected.execute("CREATE UNIQUE INDEX visits_hours ON old.visits (hours)")
        connected.execute("ALTER TABLE old.visits ALTER hours SET NOT NULL, REPLICA IDENTITY USING INDEX visits_hours")
        connected.execute("ALTER TABLE old.people REPLICA IDENTITY FULL")
    found = await check(old, tiny(tmp_path))
    assert outcomes(found, "fail") == {"old_tables.replica_identity"}, "the key is not in the index"
    assert "old.people" not in found["old_tables.replica_identity"].detail
    follow_remedy(old.dsn, found["old_tables.replica_identity"])

    with old.connect() as connected:
        connected.execute("ALTER TABLE old.visits DROP CONSTRAINT visits_pkey")
    found = await check(old, tiny(tmp_path, omit={"stay", "old_visit"}))
    assert "old_tables.replica_identity" in outcomes(found, "fail"), "a query depends on it, and it has no key"
    assert "REPLICA IDENTITY FULL" in found["old_tables.replica_identity"].remedy
    follow_remedy(old.dsn, found["old_tables.replica_identity"])
    assert outcomes(await check(old, tiny(tmp_path, omit={"stay", "old_visit"})), "fail") == set()


async def test_partitions(old: Database, tmp_path: Path) -> None:
    with old.connect() as connected:
        connected.execute(
            """
            DROP TABLE old.visits;
            CREATE TABLE old.visits (id integer PRIMARY KEY, person integer, hours numeric) PARTITION BY RANGE (id);
            CREATE SCHEMA elsewhere;
            CREATE TABLE elsewhere.early PARTITION OF old.visits FOR VALUES FROM (0) TO (100);
            CREATE TABLE old.late PARTITION OF old.visits DEFAULT;
            """
        )
    found = await check(old, tiny(tmp_path))
    assert outcomes(found, "fail") == set()
    assert found["old_tables.partitions"].detail.startswith("visits: 2 partitions")

    with old.connect() as connected:
        connected.execute("ALTER TABLE elsewhere.early REPLICA IDENTITY NOTHING")
        connected.execute("ALTER TABLE old.late SET UNLOGGED")
    found = await check(old, tiny(tmp_path))
    assert outcomes(found, "fail") == {"old_tables.replica_identity", "old_tables.logged"}
    for name in ("replica_identity", "logged"):
        follow_remedy(old.dsn, found[f"old_tables.{name}"])
    assert outcomes(await check(old, tiny(tmp_path)), "fail") == set()


async def test_a_foreign_partition(old: Database, tmp_path: Path) -> None:
    with old.connect() as connected:
        connected.execute(
            """
            CREATE TABLE old.prices (hour integer, price numeric) PARTITION BY RANGE (hour);
            ALTER TABLE old.prices REPLICA IDENTITY FULL;
            CREATE FOREIGN DATA WRAPPER nowhere;
            CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
            CREATE FOREIGN TABLE old.far PARTITION OF old.prices FOR VALUES FROM (0) TO (9) SERVER far;
            """
        )
    migration = tiny(tmp_path, omit={"total"})
    query = "SELECT people.id, (SELECT max(price) FROM old.prices) AS price FROM old.people"

    @migration.transform(source=Query(query, key=["id"], depends_on={"people": ["id"], "prices": ALL}), into="totals")
    def priced(old: Row) -> dict[str, object]:
        return {"person_id": old["id"], "hours": old["price"]}

    found = await check(old, migration)
    assert found["old_tables.partitions"].outcome == "fail"
    assert "old.far" in found["old_tables.partitions"].detail
    with old.connect() as connected:
        connected.execute("ALTER TABLE old.prices DETACH PARTITION old.far")
    assert "old_tables.partitions" not in await check(old, migration)


async def test_generated_columns(old: Database, tmp_path: Path) -> None:
    with old.connect() as connected:
        connected.execute("ALTER TABLE old.people ADD shout text GENERATED ALWAYS AS (upper(name)) STORED")
    found = await check(old, tiny(tmp_path))
    left_out = old.plugin == "pgoutput"
    assert found["old_tables.log_values"].outcome == ("warn" if left_out else "pass")
    if old.version >= 18:
        with old.connect() as connected:
            connected.execute("ALTER TABLE old.people ADD hush text GENERATED ALWAYS AS (lower(name)) VIRTUAL")
        found = await check(old, tiny(tmp_path))
        assert "old.people (hush, shout)" in found["old_tables.log_values"].detail

    with old.connect() as connected:
        connected.execute("ALTER TABLE old.people ALTER shout DROP EXPRESSION")
        connected.execute("ALTER TABLE old.people DROP COLUMN IF EXISTS hush")
        found = await check(old, tiny(tmp_path))
        assert found["old_tables.log_values"].outcome == "pass"
        blurred = "a null in visits.hours are read again" in found["old_tables.log_values"].detail
        assert blurred == (old.plugin == "wal2json")
        connected.execute(
            """
            DROP TABLE old.visits;
            CREATE TABLE old.visits (
                person integer, hours numeric, id integer GENERATED ALWAYS AS (person * 10) STORED PRIMARY KEY
            );
            """
        )
    found = await check(old, tiny(tmp_path, omit={"old_visit"}))
    assert found["old_tables.log_values"].outcome == ("fail" if left_out else "pass")


async def test_foreign_keys_in_a_circle(old: Database, tmp_path: Path) -> None:
    """The remedies work; and one column that may be NULL, or one key that waits, is enough."""
    migration = tiny(tmp_path)
    with old.connect() as connected:
        connected.execute((tmp_path / "new" / "10_tables.sql").read_bytes())
        connected.execute(
            """
            ALTER TABLE new.persons ADD stay integer NOT NULL;
            ALTER TABLE new.stays ADD UNIQUE (person_id);
            ALTER TABLE new.stays ADD CONSTRAINT there FOREIGN KEY (person_id) REFERENCES new.persons;
            ALTER TABLE new.persons ADD CONSTRAINT back FOREIGN KEY (stay) REFERENCES new.stays (person_id);
            """
        )
    found = await check(old, migration)
    assert found["new_tables.circles"].outcome == "fail"
    assert "there of new.stays" in found["new_tables.circles"].detail
    for remedy in (
        "ALTER TABLE new.persons ALTER CONSTRAINT back DEFERRABLE",
        "ALTER TABLE new.persons ALTER CONSTRAINT back NOT DEFERRABLE, ALTER stay DROP NOT NULL",
    ):
        with old.connect() as connected:
            connected.execute(remedy.encode())
        assert (await check(old, migration))["new_tables.circles"].outcome == "pass"


async def test_triggers_rules_and_cascades(old: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path)
    with old.connect() as connected:
        connected.execute((tmp_path / "new" / "10_tables.sql").read_bytes())
        connected.execute(
            """
            CREATE FUNCTION old.shout() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN NEW.name := upper(NEW.name); RETURN NEW; END $$;
            CREATE TRIGGER shout BEFORE INSERT ON old.people FOR EACH ROW EXECUTE FUNCTION old.shout();
            CREATE RULE quiet AS ON DELETE TO new.totals DO INSTEAD NOTHING;
            ALTER TABLE new.stays ADD FOREIGN KEY (person_id) REFERENCES new.persons ON DELETE CASCADE;
            """
        )
    found = await check(old, migration)
    assert outcomes(found, "fail") == {"new_tables.too_early", "new_tables.rules"}
    assert "stays_person_id_fkey of new.stays" in found["new_tables.too_early"].detail
    assert {"old_tables.triggers", "new_tables.cascades"} <= outcomes(found, "warn")
    assert "shout on old.people" in found["old_tables.triggers"].detail
    assert "quiet on new.totals" in found["new_tables.rules"].detail
    assert "stays_person_id_fkey of new.stays (to new.persons)" in found["new_tables.cascades"].detail

    with old.connect() as connected:
        connected.execute(
            """
            CREATE OR REPLACE TRIGGER shout BEFORE INSERT ON old.people FOR EACH ROW
                WHEN (current_setting('replicator.writer', true) IS DISTINCT FROM 'daemon')
                EXECUTE FUNCTION old.shout();
            DROP RULE quiet ON new.totals;
            ALTER TABLE new.stays DROP CONSTRAINT stays_person_id_fkey;
            CREATE UNIQUE INDEX early ON new.persons (full_name);
            """
        )
    found = await check(old, migration)
    assert {"old_tables.triggers", "new_tables.triggers", "new_tables.cascades"} <= outcomes(found, "pass")
    assert found["new_tables.too_early"].outcome == "warn"
    assert "early of new.persons" in found["new_tables.too_early"].detail


async def test_tables_of_extensions_are_theirs(old: Database, tmp_path: Path) -> None:
    with old.connect() as connected:
        connected.execute("CREATE TABLE old.theirs (id integer)")
        assert "theirs" in (await check(old, tiny(tmp_path)))["old_tables.coverage"].detail
        connected.execute("ALTER EXTENSION plpgsql ADD TABLE old.theirs")
        try:
            assert (await check(old, tiny(tmp_path)))["old_tables.coverage"].outcome == "pass"
        finally:
            connected.execute("ALTER EXTENSION plpgsql DROP TABLE old.theirs")


# ---- rights


@pytest.fixture
def roles(old: Database) -> Iterator[tuple[str, str, str]]:
    """Ours, the application's, and a third one."""
    names = tuple(f"{old.name}_{kind}" for kind in ("mover", "app", "third"))
    mover, app, third = names
    with old.connect() as connected:
        connected.execute(f"CREATE ROLE {mover} LOGIN REPLICATION; CREATE ROLE {app}; CREATE ROLE {third}".encode())
        yield mover, app, third
        connected.execute(f"DROP OWNED BY {', '.join(names)} CASCADE".encode())
        connected.execute(f"DROP ROLE {', '.join(names)}".encode())


async def test_every_right_that_is_lacking(old: Database, roles: tuple[str, str, str], tmp_path: Path) -> None:
    mover, app, third = roles
    migration = tiny(tmp_path)
    with old.connect() as connected:
        connected.execute((tmp_path / "new" / "10_tables.sql").read_bytes())
        connected.execute(
            f"""
            REVOKE ALL ON DATABASE {old.name} FROM public;
            GRANT CONNECT ON DATABASE {old.name} TO {mover};
            ALTER TABLE old.people OWNER TO {app}; ALTER TABLE old.visits OWNER TO {app};
            ALTER TABLE old.trash OWNER TO {app}; ALTER TABLE new.persons OWNER TO {third};
            REVOKE SELECT ON old.people FROM {app}; REVOKE DELETE ON old.people FROM {app};
            REVOKE UPDATE ON SEQUENCE old.visits_id_seq FROM {app};
            ALTER TABLE old.people ENABLE ROW LEVEL SECURITY; ALTER TABLE old.people FORCE ROW LEVEL SECURITY;
            ALTER TABLE new.stays ENABLE ROW LEVEL SECURITY;
            """.encode()
        )
    dsn = old.dsn.replace("postgres@", f"{mover}@")
    seen: set[str] = set()
    for _ in range(6):
        found = await check(old, migration, source_dsn=dsn)
        failed = outcomes(found, "fail")
        seen |= failed
        for name in failed:
            follow_remedy(old.dsn, found[name])
        if not failed:
            break
    assert failed == set()
    assert seen == {
        "security.row_security",
        "source.privileges",
        "source.schema",
        "target.schema",
        "old_tables.row_security",
        "old_tables.read_privileges",
        "old_tables.write_privileges",
        "old_tables.ownership",
        "new_tables.row_security",
        "new_tables.read_privileges",
        "new_tables.write_privileges",
        "new_tables.ownership",
    }


async def test_the_rights_that_are_enough(old: Database, roles: tuple[str, str, str], tmp_path: Path) -> None:
    mover, app, _ = roles
    with old.connect() as connected:
        connected.execute(
            f"""
            ALTER SCHEMA old OWNER TO {app}; ALTER TABLE old.people OWNER TO {app};
            ALTER TABLE old.visits OWNER TO {app}; ALTER TABLE old.trash OWNER TO {app};
            GRANT {app} TO {mover}; GRANT CREATE ON DATABASE {old.name} TO {mover};
            """.encode()
        )
    found = await check(old, tiny(tmp_path), source_dsn=old.dsn.replace("postgres@", f"{mover}@"))
    assert outcomes(found, "fail") == set()
