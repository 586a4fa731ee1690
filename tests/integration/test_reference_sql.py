"""The reference migration's SQL on a real server, with a naive engine: read all, transform all, insert all."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from replicator import as_json
from replicator.migration import as_rows
from tests import old_rows
from tests.fix_postgres import Server, fresh_database
from tests.old_rows import Party, Row
from tests.reference_sql import (
    KEPT_AS_TEXT,
    OLD_TABLES,
    PINNED,
    SQL,
    Connection,
    insert,
    read,
    read_source,
    run,
    run_all,
)
from transforms import migration
from transforms.admins import admin_id
from transforms.party import EVENT_ID

pytestmark = pytest.mark.every_server

CHECKS = sorted((SQL / "checks").glob("*.sql"))
NEW_TABLES = ("admins", "events", "spotify_tokens", "requests")


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Connection]:
    """A connection that sees values as transforms do, to a database where some ordinary rows have been migrated.

    In the schema ``again``, the old tables are there a second time, for the way back.
    """
    with (
        fresh_database(server) as database,
        psycopg.connect(database.dsn, autocommit=True, row_factory=dict_row) as new,
    ):
        for name, value in PINNED.items():
            new.execute("SELECT set_config(%s, %s, false)", [name, value])
        for name in KEPT_AS_TEXT:
            new.adapters.register_loader(name, TextLoader)
        run(new, "old/10_tables.sql", "new/10_tables.sql")
        new.execute("CREATE SCHEMA again")
        for table in OLD_TABLES:
            new.execute(f"CREATE TABLE again.{table} (LIKE public.{table} INCLUDING ALL)".encode())
        insert_old(new, PARTY)
        run_forward(new)
        run(new, "new/20_indexes.sql", "new/30_constraints.sql")
        yield new


@pytest.fixture
def migrated(shared: Connection) -> Iterator[Connection]:
    """The same, for one test: what it changes is undone."""
    with shared.transaction(force_rollback=True):
        yield shared


@pytest.fixture
def connection(migrated: Connection) -> Connection:
    """The same without any rows."""
    empty(migrated)
    return migrated


# --- a naive engine ---------------------------------------------------------------------------------------------------


def insert_old(connection: Connection, party: Party) -> None:
    for table, rows in party.items():
        insert(connection, "public", table, rows)


def run_forward(connection: Connection) -> None:
    run_all(connection, "forward", "party")


def run_reverse(connection: Connection) -> None:
    run_all(connection, "reverse", "again")


def as_texts(connection: Connection, schema: str) -> dict[str, list[Row]]:
    """The content of the old tables, each column as Postgres prints it."""
    content = {}
    for table in OLD_TABLES:
        columns = ", ".join(f"{column}::text" for column in columns_of(connection, schema, table))
        content[table] = read(connection, f"SELECT {columns} FROM {schema}.{table} ORDER BY 1")
    return content


def columns_of(connection: Connection, schema: str, table: str) -> list[str]:
    found = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
        [f"{schema}.{table}"],
    )
    return [row["attname"] for row in found]


def complaints(connection: Connection) -> dict[str, list[Row]]:
    """What the checks find wrong, by their names."""
    found = {check.stem: read(connection, check.read_text()) for check in CHECKS}
    return {name: rows for name, rows in found.items() if rows}


def incoherent_requests(connection: Connection) -> list[Row]:
    """Requests whose times belie their status, or whose track is not the one in their document."""
    return read(
        connection,
        "SELECT id, status FROM party.requests WHERE (status = 'rejected') <> (rejected_at IS NOT NULL)"
        " OR played_at IS DISTINCT FROM CASE status WHEN 'played' THEN approved_at END"
        " OR track_data ->> 'id' IS DISTINCT FROM track_id",
    )


def empty(connection: Connection) -> None:
    with connection.transaction():
        connection.execute("SET CONSTRAINTS ALL DEFERRED")
        for schema, tables in (("public", OLD_TABLES), ("party", NEW_TABLES), ("again", OLD_TABLES)):
            for table in tables:
                connection.execute(f"DELETE FROM {schema}.{table}".encode())
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")


# --- content ----------------------------------------------------------------------------------------------------------


def an_admin(name: str, **columns: Any) -> Row:
    return {"id": name, "username": name, "password_hash": "", "created_at": None, "is_active": True} | columns


def a_request(name: str, **columns: Any) -> Row:
    required = ("track_uri", "track_name", "artist_name", "requester_ip_hash")
    return {"id": name, **dict.fromkeys(required, "x"), "duration_ms": 1} | columns


PARTY: Party = {
    "requests": [
        a_request("r1"),
        a_request("r2", status="failed", created_at=None, requester_nickname=""),
        a_request("r3", status="played", approved_at="2024-01-01 00:00:00"),
    ],
    "settings": [
        {"key": "target_device_id", "value": "device", "updated_at": "2024-01-01 00:00:00"},
        {"key": "party_name", "value": "Party", "updated_at": None},
    ],
    "admins": [an_admin("DJ"), an_admin("dj", is_active=None)],
    "spotify_auth": [{"id": 1, "access_token": "token", "expires_at": "0044-03-15 00:00:00 BC"}],
    "event_settings": [{"id": 1, "requests_page_enabled": True, "display_page_enabled": True}],
}


# --- the tests --------------------------------------------------------------------------------------------------------


def test_all_of_it_can_be_run_again(shared: Connection) -> None:
    for folder in ("old", "new"):
        run(shared, *(f"{folder}/{file.name}" for file in sorted((SQL / folder).glob("*.sql"))))
    assert read(shared, "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid") == []
    keys = read(
        shared,
        "SELECT convalidated, condeferrable, condeferred FROM pg_constraint"
        " WHERE contype = 'f' AND connamespace = 'party'::regnamespace",
    )
    assert keys == [{"convalidated": True, "condeferrable": True, "condeferred": False}] * 3


def test_indexes(migrated: Connection) -> None:
    found = read(
        migrated,
        "SELECT indrelid::regclass::text AS of, indisunique AS unique,"
        " array_to_string(ARRAY(SELECT pg_get_indexdef(indexrelid, n, true)"
        " FROM generate_series(1, indnkeyatts) AS n), ',') AS columns"
        " FROM pg_index JOIN pg_class ON oid = indexrelid"
        " WHERE relnamespace = 'party'::regnamespace AND NOT indisprimary",
    )
    assert sorted((row["of"], row["columns"], row["unique"]) for row in found) == [
        ("party.admins", "email", True),
        ("party.events", "status", False),
        ("party.events", "updated_at", False),
        ("party.requests", "created_at", False),
        ("party.requests", "event_id", False),
        ("party.requests", "event_id,status", False),
        ("party.requests", "status", False),
        ("party.requests", "status,created_at", False),
        ("party.spotify_tokens", "expires_at", False),
    ]


def test_there_and_back(migrated: Connection) -> None:
    assert complaints(migrated) == {}
    assert incoherent_requests(migrated) == []
    counts = {table: len(read(migrated, f"SELECT FROM party.{table}")) for table in NEW_TABLES}
    assert counts == {"admins": 2, "events": 1, "spotify_tokens": 1, "requests": 3}
    run_reverse(migrated)
    assert as_texts(migrated, "again") == as_texts(migrated, "public")


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(party=old_rows.parties)
def test_any_old_content_fits_and_comes_back(connection: Connection, party: Party) -> None:
    empty(connection)
    insert_old(connection, party)
    run_forward(connection)
    assert complaints(connection) == {}
    assert incoherent_requests(connection) == []
    run_reverse(connection)
    assert as_texts(connection, "again") == as_texts(connection, "public")


def test_an_empty_old_schema_has_an_event(connection: Connection) -> None:
    run_forward(connection)
    assert complaints(connection) == {}
    assert read(connection, "SELECT id FROM party.events") == [{"id": EVENT_ID}]
    run_reverse(connection)
    assert as_texts(connection, "again") == {table: [] for table in OLD_TABLES}


def test_every_column_is_given(migrated: Connection) -> None:
    """None is left to a default, neither there nor back."""
    for each in migration.transforms:
        schema = migration.new if each.direction == "forward" else migration.old
        for source in read_source(migrated, each):
            for row in as_rows(each.function(source)):
                assert set(row) == set(columns_of(migrated, schema, each.into)), each.name


# --- the queries ------------------------------------------------------------------------------------------------------

FIRST = "2024-01-01 00:00:00"
LATER = "2024-01-02 00:00:00"


@pytest.mark.parametrize(
    "admins, expected",
    [
        ([], None),
        ([an_admin("a", is_active=False), an_admin("b", is_active=None)], None),
        ([an_admin("a", created_at=LATER), an_admin("b", created_at=FIRST)], "b"),
        ([an_admin("a", created_at=FIRST, is_active=False), an_admin("b", created_at=LATER)], "b"),
        ([an_admin("a", created_at=None), an_admin("b", created_at="infinity")], "b"),
        ([an_admin("a", created_at=LATER), an_admin("b", created_at="0044-03-15 00:00:00 BC")], "b"),
        ([an_admin("a", created_at=FIRST), an_admin("B", created_at=FIRST)], "B"),
    ],
)
def test_the_first_active_admin(connection: Connection, admins: list[Row], expected: str | None) -> None:
    if read(connection, "SELECT FROM pg_collation WHERE collname = 'und-x-icu'"):  # where a sorts before B
        connection.execute('ALTER TABLE public.admins ALTER id TYPE text COLLATE "und-x-icu"')
    insert_old(connection, {"admins": admins, "spotify_auth": [{"id": 1}]})
    run_forward(connection)
    new_id = None if expected is None else admin_id(expected)
    assert read(connection, "SELECT active_admin_id FROM party.events") == [{"active_admin_id": new_id}]
    owners = [] if new_id is None else [{"admin_id": new_id}]
    assert read(connection, "SELECT admin_id FROM party.spotify_tokens") == owners


@pytest.mark.parametrize(
    "own, others, expected",
    [
        (None, [], "-infinity"),
        ("2024-01-01 00:00:00", [], "2024-01-01 00:00:00+00"),
        (None, ["2024-01-01 00:00:00", None], "2024-01-01 00:00:00+00"),
        ("9999-01-01 00:00:00", ["10000-01-01 00:00:00", "2024-01-01 00:00:00"], "10000-01-01 00:00:00+00"),
        ("2024-01-01 00:00:00", ["4000-01-01 00:00:00 BC"], "2024-01-01 00:00:00+00"),
        ("infinity", ["2024-01-01 00:00:00"], "infinity"),
    ],
)
def test_the_event_is_as_new_as_its_latest_source(
    connection: Connection, own: str | None, others: list[str | None], expected: str
) -> None:
    rows = [{"key": str(number), "value": "", "updated_at": other} for number, other in enumerate(others)]
    insert_old(connection, {"event_settings": [{"id": 1, "updated_at": own}], "settings": rows})
    run_forward(connection)
    assert read(connection, "SELECT updated_at FROM party.events") == [{"updated_at": expected}]


@pytest.mark.parametrize("active", [True, False])
def test_tokens_are_kept_with_the_event_only_while_no_admin_can_own_them(
    connection: Connection, *, active: bool
) -> None:
    """Else tokens that the new application deleted would come back."""
    insert_old(connection, PARTY | {"admins": [an_admin("DJ", is_active=active)]})
    (event,) = read(connection, (SQL / "event.sql").read_text())
    tokens = read(connection, "SELECT * FROM public.spotify_auth")
    assert as_json(event["orphan_tokens"]) == (None if active else tokens[0])


def test_of_several_admins_tokens_the_active_admins_go_back(migrated: Connection) -> None:
    migrated.execute(
        "INSERT INTO party.spotify_tokens (admin_id, access_token)"
        " SELECT id, 'theirs' FROM party.admins WHERE email = 'dj'"
    )
    run_reverse(migrated)
    assert as_texts(migrated, "again") == as_texts(migrated, "public")


def test_times_in_documents_are_as_postgres_prints_them(connection: Connection) -> None:
    insert_old(connection, PARTY)
    (event,) = read(connection, (SQL / "event.sql").read_text())
    own = read(connection, "SELECT key, updated_at FROM public.settings")
    assert as_json(event["settings_updated_at"]) == {row["key"]: row["updated_at"] for row in own}


# --- the checks -------------------------------------------------------------------------------------------------------

FAULTS = [
    ("event_is_one", "DELETE FROM party.events"),
    ("event_is_one", "INSERT INTO party.events SELECT (e).* FROM (SELECT jsonb_populate_record(e, to_jsonb(e)"
     " || jsonb_build_object('id', gen_random_uuid())) AS e FROM party.events AS e) AS other"),
    ("event_config", "UPDATE party.events SET config = config - 'dj_name'"),
    ("event_config", "UPDATE party.events SET config = config #- '{pages_enabled,display}'"),
    ("event_config", "UPDATE party.events SET config = config || '{\"settings\": null}'"),
    ("event_config", "UPDATE party.events SET config = jsonb_set(config, '{settings,limit}', '5')"),
    ("event_status", "UPDATE party.events SET status = 'standby'"),
    ("event_device", "UPDATE party.events SET device_id = NULL"),
]  # fmt: skip


@pytest.mark.parametrize("check, fault", FAULTS)
def test_a_check_finds(migrated: Connection, check: str, fault: str) -> None:
    migrated.execute(fault.encode())
    assert check in complaints(migrated)


def test_no_check_reads_the_large_table() -> None:
    """They run while the writers wait."""
    assert not any("party.requests" in check.read_text() for check in CHECKS)


def test_every_check_is_seen_to_find_something() -> None:
    assert {check for check, _ in FAULTS} == {check.stem for check in CHECKS}


# --- the new tables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement, error",
    [
        ("INSERT INTO party.admins (email, password_hash) VALUES ('DJ', '')", psycopg.errors.UniqueViolation),
        ("UPDATE party.events SET status = 'over'", psycopg.errors.CheckViolation),
        ("UPDATE party.events SET version = -1", psycopg.errors.CheckViolation),
        ("UPDATE party.requests SET status = 'queued'", psycopg.errors.CheckViolation),
        ("UPDATE party.events SET active_admin_id = gen_random_uuid()", psycopg.errors.ForeignKeyViolation),
        ("UPDATE party.requests SET event_id = gen_random_uuid()", psycopg.errors.ForeignKeyViolation),
        ("UPDATE party.spotify_tokens SET admin_id = gen_random_uuid()", psycopg.errors.ForeignKeyViolation),
        ("UPDATE party.requests SET legacy = NULL", psycopg.errors.NotNullViolation),
    ],
)
def test_the_new_tables_refuse(migrated: Connection, statement: str, error: type[psycopg.Error]) -> None:
    with pytest.raises(error):
        migrated.execute(statement.encode())


def test_what_goes_with_its_parent(migrated: Connection) -> None:
    migrated.execute("UPDATE party.events SET active_admin_id = NULL")
    migrated.execute("DELETE FROM party.admins")
    assert read(migrated, "SELECT FROM party.spotify_tokens") == []
    migrated.execute("DELETE FROM party.events")
    assert read(migrated, "SELECT FROM party.requests") == []
