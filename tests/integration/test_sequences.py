"""After a cutover a sequence gives no number that is in use, whatever it is made like."""

import pytest

from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.rows.sequences import set_sequences
from replicator.postgres.session.connect import connection
from tests.engine import execute
from tests.fix_postgres import Database
from tests.statements import one

pytestmark = pytest.mark.two_servers


async def test_sequences_are_set_beyond_what_is_used(database: Database) -> None:
    execute(
        database.dsn,
        [
            "CREATE SCHEMA s",
            'CREATE TABLE s."T x" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "n N" serial, plain integer)',
            'INSERT INTO s."T x" OVERRIDING SYSTEM VALUE VALUES (500, 70, 1)',
        ],
    )
    async with connection(database.dsn, "test") as target:
        assert await set_sequences(target, (await read_tables(target, "s")).values()) == 2
    execute(database.dsn, ['INSERT INTO s."T x" (plain) VALUES (1)'])
    assert one(database.dsn, 'SELECT id > 500 AND "n N" > 70 FROM s."T x" WHERE id <> 500') is True


KINDS: list[tuple[str, list[int], int]] = [
    ("bigint GENERATED ALWAYS AS IDENTITY", [], 1001),
    ("bigint GENERATED ALWAYS AS IDENTITY (START 5000)", [1, 7], 6000),
    ("bigint GENERATED ALWAYS AS IDENTITY (MINVALUE 5000)", [1, 7], 6000),
    ("bigint GENERATED ALWAYS AS IDENTITY (INCREMENT -1)", [-1, -7], -1008),
    ("bigint GENERATED ALWAYS AS IDENTITY (INCREMENT -1)", [], -1001),
    ("bigint GENERATED ALWAYS AS IDENTITY (INCREMENT 2)", [1, 8], 1011),
    ("smallint GENERATED ALWAYS AS IDENTITY", [32_700], 32_734),
    ("smallint GENERATED ALWAYS AS IDENTITY (INCREMENT -3 START -1)", [-32_700], -32_737),
    ("bigint GENERATED ALWAYS AS IDENTITY (MINVALUE -9223372036854775808 START 1)", [-50], 1001),
    ("bigint GENERATED ALWAYS AS IDENTITY (INCREMENT 5 MAXVALUE 2)", [], 1),
    ("numeric DEFAULT nextval('s.own')", [7], 1008),
]
"""How a column is made, what is in it, and what it is given next."""


async def test_of_whatever_kind(database: Database) -> None:
    execute(database.dsn, ["CREATE SCHEMA s", "CREATE SEQUENCE s.own"])
    for number, (made, used, _) in enumerate(KINDS):
        execute(
            database.dsn,
            [
                f"CREATE TABLE s.t{number} (id {made}, plain integer)",
                *(f"INSERT INTO s.t{number} OVERRIDING SYSTEM VALUE VALUES ({each}, 1)" for each in used),
                *([f"ALTER SEQUENCE s.own OWNED BY s.t{number}.id"] if "s.own" in made else []),
            ],
        )
    async with connection(database.dsn, "test") as target:
        assert await set_sequences(target, (await read_tables(target, "s")).values()) == len(KINDS)
    given = [one(database.dsn, f"INSERT INTO s.t{each} (plain) VALUES (2) RETURNING id") for each in range(len(KINDS))]
    assert given == [expected for _, _, expected in KINDS]


async def test_goes_on_from_what_it_has_given(database: Database) -> None:
    """What it gave last need not be in the table any more, nor yet."""
    execute(
        database.dsn,
        [
            "CREATE SCHEMA s",
            "CREATE TABLE s.t (up serial, down bigint GENERATED ALWAYS AS IDENTITY (INCREMENT -1), name text)",
            "CREATE SEQUENCE s.named OWNED BY s.t.name",
            "INSERT INTO s.t (name) SELECT 'n' FROM generate_series(1, 20)",
            "DELETE FROM s.t",
        ],
    )
    async with connection(database.dsn, "test") as target:
        assert await set_sequences(target, (await read_tables(target, "s")).values()) == 2
    execute(database.dsn, ["INSERT INTO s.t DEFAULT VALUES"])
    assert one(database.dsn, "SELECT ARRAY[up, down] FROM s.t") == [1021, -1021]
