"""A source table that changes under the daemon: it stops with what to do, or goes on where that is right."""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from replicator.errors import DefinitionError, ProtocolError, ReplicatorError
from replicator.pipeline.repair import compare, repair_unseen
from replicator.pipeline.source_definitions import SUSPECTED
from replicator.postgres.catalog.catalog_version import Reading
from replicator.postgres.catalog.fingerprints import Definition, may_have_changed, read_definitions, stored_definitions
from replicator.postgres.session.connect import connection
from replicator.verify import PassResult
from tests.changing import changing, create
from tests.comparing import verify_until
from tests.engine import Engine, differences, engine, execute
from tests.fix_postgres import Database
from tests.waiting import until

pytestmark = pytest.mark.two_servers


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.3)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_LOOKS", 0.05)


async def change_it(dsn: str, statements: Iterable[str]) -> None:
    """Run statements while the engine runs: they wait for the locks of what it reads just then."""
    await asyncio.to_thread(execute, dsn, statements)


async def compared(made: Engine) -> PassResult:
    """A full pass, as the rounds make it."""
    await made.running.verifier.open()
    result: PassResult = await made.within(compare(made.running))
    return result


def gate_is_open(made: Engine) -> bool:
    return made.running.verifier.clean


async def looked(made: Engine) -> None:
    """Wait until the engine has looked at all that there is now: a later reading of the catalogue finds nothing new."""
    unchanged = asyncio.Event()
    changed = made.running.monitor.changed

    async def noting() -> Reading | None:
        reading = await changed()
        if reading is None:
            unchanged.set()
        return reading

    made.running.monitor.changed = noting  # type: ignore[method-assign]
    await made.within(unchanged.wait())


# ---- what is no matter


HARMLESS = (
    "ALTER TABLE people ADD COLUMN extra text DEFAULT 'x'",
    "ALTER TABLE pets ADD COLUMN extra text DEFAULT 'x'",
    "ALTER TABLE people ALTER COLUMN code TYPE varchar(20)",
    "ALTER TABLE words ALTER COLUMN word TYPE varchar(40)",
    "ALTER TYPE mood ADD VALUE 'glad'",
    "CREATE TABLE visits_3 PARTITION OF visits FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
    "VACUUM FULL people",
    "CLUSTER pets USING pets_pkey",
    "ALTER TABLE people ALTER COLUMN name SET NOT NULL",
    "CREATE INDEX ON people (name)",
)
AFTERWARDS = (
    "UPDATE people SET price = price + 1, code = 'c' WHERE id < 5",
    "INSERT INTO people (id, name) VALUES (900, 'after')",
    "DELETE FROM people WHERE id = 7",
    "UPDATE pets SET owner = 3 WHERE id < 4",
    "DELETE FROM pets WHERE id = 9",
    "INSERT INTO words VALUES ('after', 'NaN')",
    "UPDATE visits SET note = 'after', day = '2026-02-20' WHERE id = 3",
    "DELETE FROM visits WHERE id = 5",
)


async def test_what_is_no_matter(database: Database, tmp_path: Path) -> None:
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        for statement in HARMLESS:
            with database.connect() as old:
                old.execute(statement.encode())
        await change_it(database.dsn, AFTERWARDS)
        await change_it(
            database.dsn,
            [
                "INSERT INTO people (id, name, code, mood) VALUES (901, 'a', 'longer than five', 'glad')",
                "INSERT INTO words VALUES ('longer than five', 'NaN')",
                "INSERT INTO visits VALUES (901, '2026-03-05', 'young')",
            ],
        )
        await made.drain()
        assert await differences(made) == []
        await verify_until(made, lambda: made.running.verifier.clean)
        assert await differences(made) == []


async def test_a_new_column_stays_out_of_stream_backfill_and_verify_until_the_next_start(
    database: Database, tmp_path: Path
) -> None:
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await change_it(
            database.dsn,
            [
                "ALTER TABLE pets ADD COLUMN extra integer DEFAULT 7",
                "ALTER TABLE people ADD COLUMN extra integer DEFAULT 7",
            ],
        )
        await made.backfill()
        await made.build()
        await change_it(
            database.dsn, ["UPDATE people SET extra = 8", "UPDATE pets SET extra = 8, name = 'x' WHERE id = 1"]
        )
        await made.drain()
        assert await differences(made) == []
        assert (await compared(made)).clean
        await made.stop()
        await change_it(database.dsn, ["ALTER TABLE people DROP COLUMN extra"])
        await made.start()  # a column that was in the log and is gone is no matter either
        await made.drain()
        assert made.running.context.unseen == {"pets"}, "transforms see a column that they have not seen before"
        assert (await compared(made)).clean
        assert made.running.context.unseen == set()
        assert await differences(made) == []


# ---- rows that change past the log


@dataclass(frozen=True)
class Unseen:
    """What changes rows of a table past the log."""

    table: str
    statements: tuple[str, ...]


UNSEEN = (
    Unseen("people", ("ALTER TABLE people ALTER COLUMN code TYPE varchar(5) USING upper(code)",)),
    Unseen("people", ("ALTER TABLE people ALTER COLUMN price TYPE numeric(8, 4)",)),
    Unseen("people", ("ALTER TABLE people DROP COLUMN code", "ALTER TABLE people ADD COLUMN code varchar(5)")),
    Unseen("people", ("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",)),
    Unseen("pets", ("ALTER TABLE pets ALTER COLUMN name TYPE text USING name || '!'",)),
    Unseen(
        "people",
        (
            "ALTER TABLE people RENAME COLUMN name TO other",
            "ALTER TABLE people RENAME COLUMN nick TO name",
            "ALTER TABLE people RENAME COLUMN other TO nick",
        ),
    ),
    Unseen(
        "visits",
        (
            "CREATE TABLE young (LIKE visits INCLUDING ALL)",
            "INSERT INTO young SELECT i, '2026-03-05', 'attached' FROM generate_series(500, 560) i",
            "ALTER TABLE visits ATTACH PARTITION young FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
        ),
    ),
    Unseen("visits", ("ALTER TABLE visits DETACH PARTITION visits_1",)),
    Unseen("visits", ("DROP TABLE visits_2",)),
)
THEN = (
    "UPDATE people SET price = 3 WHERE id = 1",
    "INSERT INTO people (id, price) SELECT max(id) + 1, 1 FROM people",
    "UPDATE pets SET name = 'then' WHERE id = 2",
    "DELETE FROM visits WHERE id = 6",
)


async def test_what_changes_rows_past_the_log_shows_in_the_catalogue(database: Database) -> None:
    create(database)
    async with connection(database.dsn, "test") as opened:

        async def read() -> dict[str, Definition]:
            return await read_definitions(opened, "public", ["people", "pets", "words", "visits"], "")

        before = await read()
        for unseen in UNSEEN:
            for statement in (*unseen.statements, *THEN):
                await change_it(database.dsn, [statement])
            now = await read()
            changed = {name for name in now if may_have_changed(before[name], now[name])}
            assert changed == {unseen.table}, unseen
            before = now


@pytest.mark.every_server
async def test_rows_that_change_past_the_log_are_compared_and_mended(database: Database, tmp_path: Path) -> None:
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        assert (await compared(made)).clean
        assert gate_is_open(made)
        for statement in [each for unseen in UNSEEN for each in unseen.statements]:
            await change_it(database.dsn, [statement])
        await change_it(database.dsn, THEN)
        await looked(made)
        assert made.running.context.unseen == {"people", "pets", "visits"}
        assert not gate_is_open(made), "the gate is open though rows have changed unseen"
        await verify_until(made, lambda: made.running.verifier.clean)
        assert await differences(made) == []
        assert made.running.context.quarantined == set()
        await change_it(database.dsn, THEN)
        await looked(made)
        assert made.running.context.unseen == set(), "it is told twice"


async def test_what_happened_while_the_daemon_was_down_is_mended_too(database: Database, tmp_path: Path) -> None:
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        await made.stop()
        await change_it(
            database.dsn, ["ALTER TABLE pets ALTER COLUMN name TYPE text USING name || '!'", "DROP TABLE visits_2"]
        )
        await made.start()
        assert made.running.context.unseen == {"pets", "visits"}
        await made.stop()
        await made.start()
        assert made.running.context.unseen == {"pets", "visits"}, "forgotten before it was mended"
        await verify_until(made, lambda: made.running.verifier.clean)
        assert await differences(made) == []
        await made.stop()
        await made.start()
        assert made.running.context.unseen == set()


async def test_what_was_noticed_and_is_gone_at_the_next_start_is_mended(database: Database, tmp_path: Path) -> None:
    """An heir's rows are read with the table's and are in no log; when it is gone, the catalogue is as it was."""
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await change_it(
            database.dsn, ["CREATE TABLE heir () INHERITS (pets)", "INSERT INTO heir VALUES (-1, -1, 'of the heir')"]
        )
        await made.running.look_at_definitions()
        await made.backfill()
        made.running.compare_all()

        async def all_noted() -> bool:
            return len(await suspected(database.dsn)) >= len(made.running.context.unseen)

        await until(all_noted)
        await made.stop()
        await change_it(database.dsn, ["DROP TABLE heir"])
        await made.start()
        assert {"pets", "words"} <= made.running.context.unseen
        await verify_until(made, lambda: made.running.verifier.clean)
        assert await differences(made) == []
        assert await suspected(database.dsn) == set()


async def suspected(dsn: str) -> set[str]:
    """The tables that the next daemon would compare."""
    async with connection(dsn, "test") as opened:
        stored = await stored_definitions(opened, "forward")
    return {name for name, each in stored.items() if each.generation == SUSPECTED}


async def test_what_happened_during_the_backfill_is_mended_before_constraints_are_made(
    database: Database, tmp_path: Path
) -> None:
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        await change_it(
            database.dsn,
            ["ALTER TABLE visits DETACH PARTITION visits_1", "INSERT INTO visits_1 VALUES (1, '2026-01-20', 'x')"],
        )
        await made.within(repair_unseen(made.running))
        assert await differences(made) == []


async def test_only_rows_that_hang_on_what_was_noticed_are_mended(database: Database, tmp_path: Path) -> None:
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        await change_it(
            database.dsn,
            [
                "SELECT set_config('replicator.pass', pass, true) FROM _replicator.secrets",
                "UPDATE store.words SET weight = 0 WHERE word = 'w1'",
                "DELETE FROM store.people WHERE id = 2",
                "ALTER TABLE people ALTER COLUMN price TYPE numeric(6, 2) USING price + 1",
            ],
        )
        await made.running.look_at_definitions()
        await compared(made)
        assert await differences(made) == [("words", "different", ("w1",))]


@pytest.mark.every_server
async def test_a_table_that_becomes_a_partition_and_stops_being_one(database: Database, tmp_path: Path) -> None:
    """Its changes are ours while it is one, and only then."""
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        await change_it(database.dsn, ["CREATE TABLE young (LIKE visits INCLUDING ALL)"])
        await change_it(database.dsn, ["INSERT INTO young VALUES (700, '2026-03-05', 'before')"])
        await made.drain()
        assert await differences(made) == []
        await change_it(
            database.dsn,
            ["ALTER TABLE visits ATTACH PARTITION young FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')"],
        )
        await made.running.look_at_definitions()
        await change_it(database.dsn, ["INSERT INTO visits VALUES (701, '2026-03-06', 'while')"])
        await made.drain()
        assert (await compared(made)).clean
        assert await differences(made) == []
        await change_it(database.dsn, ["ALTER TABLE visits DETACH PARTITION young"])
        await made.running.look_at_definitions()
        await change_it(database.dsn, ["INSERT INTO young VALUES (702, '2026-03-07', 'after')"])
        await made.drain()
        assert (await compared(made)).clean
        assert await differences(made) == []


# ---- what cannot be gone on with


KEY = r"The primary key of public.people has changed|The log does not identify changed rows of public.people"
"""The stream may tell before the catalogue."""
STOPS = (
    (
        "ALTER TABLE people ALTER COLUMN price TYPE integer",
        "The type of public.people.price has changed; its rows were rewritten unseen.",
    ),
    ("ALTER TABLE people DROP COLUMN code", "The column public.people.code is gone."),
    ("ALTER TABLE people RENAME COLUMN code TO other", "The column public.people.code is gone."),
    ("DROP TABLE pets", "The source table public.pets is gone."),
    ("ALTER TABLE pets RENAME TO animals", "The source table public.pets is gone."),
    (
        "ALTER TABLE pets RENAME TO animals; CREATE TABLE pets (LIKE animals INCLUDING ALL)",
        "The source table public.pets is not the one of before: it was made anew.",
    ),
    (
        "ALTER TABLE people DROP CONSTRAINT people_pkey, ADD PRIMARY KEY (name)",
        KEY,
    ),
    ("ALTER TABLE people DROP CONSTRAINT people_pkey", KEY),
    (
        "ALTER TABLE people REPLICA IDENTITY NOTHING",
        "The log does not identify changed rows of public.people any more",
    ),
    (
        "ALTER TABLE people ALTER name SET NOT NULL; CREATE UNIQUE INDEX by_name ON people (name); "
        "ALTER TABLE people REPLICA IDENTITY USING INDEX by_name",
        "The log does not identify changed rows of public.people any more",
    ),
    (
        "ALTER TABLE visits_2 REPLICA IDENTITY NOTHING",
        "The log does not identify changed rows of public.visits any more",
    ),
)


def remedied(error: BaseException, says: str) -> None:
    assert isinstance(error, DefinitionError)
    assert re.search(says, str(error)), error
    assert error.remedy


@pytest.mark.parametrize(("change", "says"), STOPS)
async def test_what_cannot_be_followed_stops_the_daemon(
    database: Database, tmp_path: Path, change: str, says: str
) -> None:
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        await change_it(database.dsn, [change])
        remedied(await made.failure(), says)
        await made.stop()
        with psycopg.connect(database.dsn) as target:
            assert target.execute("SELECT count(*) FROM store.people").fetchone() == (20,)
        if "is gone" not in says:
            with pytest.raises(ReplicatorError) as refused:
                await made.start()  # as it would by itself, under systemd
            assert re.search(f"{says}|has no primary key", str(refused.value))
            assert refused.value.remedy


async def test_a_column_that_no_transform_reads_may_go_with_a_restart(database: Database, tmp_path: Path) -> None:
    create(database)
    execute(database.dsn, ["ALTER TABLE pets ADD COLUMN unread text DEFAULT 'x'"])
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        await change_it(database.dsn, ["UPDATE pets SET unread = 'y' WHERE id = 1"])
        await change_it(
            database.dsn, ["ALTER TABLE pets DROP COLUMN unread", "UPDATE pets SET name = 'after' WHERE id = 2"]
        )
        remedied(await made.failure(), "unread")
        await made.stop()
        await made.start()
        await made.drain()
        await verify_until(made, lambda: made.running.verifier.clean)
        assert await differences(made) == []


async def test_an_identity_that_is_changed_for_a_moment(database: Database, tmp_path: Path) -> None:
    """While the daemon is away: the log then names rows by other columns, or the plugin leaves them out."""
    create(database)
    execute(
        database.dsn, ["ALTER TABLE people ALTER name SET NOT NULL", "CREATE UNIQUE INDEX by_name ON people (name)"]
    )
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        await made.stop()
        await change_it(
            database.dsn,
            [
                "ALTER TABLE people REPLICA IDENTITY USING INDEX by_name",
                "DELETE FROM people WHERE id = 3",
                "ALTER TABLE people REPLICA IDENTITY DEFAULT",
            ],
        )
        await made.start()
        error = await made.failure()
        assert isinstance(error, DefinitionError | ProtocolError)
        assert error.remedy
        await made.stop()
        with psycopg.connect(database.dsn) as target:
            assert target.execute("SELECT count(*) FROM store.people").fetchone() == (20,)


async def test_a_partition_in_another_schema(database: Database, tmp_path: Path) -> None:
    """wal2json is asked for tables by name: it takes a start to ask for this one too. pgoutput sends it at once."""
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        await change_it(
            database.dsn,
            [
                "CREATE SCHEMA elsewhere",
                "CREATE TABLE elsewhere.young PARTITION OF visits FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
                "INSERT INTO visits VALUES (700, '2026-03-05', 'young')",
            ],
        )
        if database.plugin == "wal2json":
            remedied(await made.failure(), "has a new partition in another schema")
            await made.stop()
            await made.start()
        await change_it(database.dsn, ["INSERT INTO visits VALUES (701, '2026-03-06', 'younger')"])
        await made.drain()
        await looked(made)
        await verify_until(made, lambda: made.running.verifier.clean)
        assert await differences(made) == []


# ---- the publication


PUBLICATION = (
    "DROP PUBLICATION t_publication",
    "DROP PUBLICATION t_publication; CREATE PUBLICATION t_publication FOR TABLE people, pets, words, visits",
    "ALTER PUBLICATION t_publication DROP TABLE pets",
    "ALTER PUBLICATION t_publication DROP TABLE pets; ALTER PUBLICATION t_publication ADD TABLE pets",
    "ALTER PUBLICATION t_publication SET (publish = 'insert, update')",
    "ALTER PUBLICATION t_publication SET (publish_via_partition_root = true)",
)


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("change", PUBLICATION)
async def test_a_publication_that_is_changed(database: Database, tmp_path: Path, change: str, away: bool) -> None:
    if database.plugin != "pgoutput":
        pytest.skip("wal2json has no publication")
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        if away:
            await made.stop()
        await change_it(database.dsn, [change, "UPDATE pets SET name = 'missed'"])
        if away:
            with pytest.raises(DefinitionError) as refused:
                await made.start()
            remedied(refused.value, "The publication t_publication does not publish")
        else:
            error = await made.failure()
            assert isinstance(error, DefinitionError)
            assert "publication" in str(error)
            assert error.remedy


# ---- the target


TARGET = (
    ("ALTER TABLE store.words DROP COLUMN weight", DefinitionError),
    ("ALTER TABLE store.words RENAME TO terms", DefinitionError),
    ("DROP TABLE store.words", DefinitionError),
    ("ALTER TABLE store.words DROP CONSTRAINT words_pkey", DefinitionError),
    ("ALTER TABLE store.words ALTER COLUMN weight TYPE date USING NULL", DefinitionError),
)


@pytest.mark.parametrize(("change", "kind"), TARGET)
async def test_a_target_that_is_altered_by_hand(
    database: Database, tmp_path: Path, change: str, kind: type[ReplicatorError]
) -> None:
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        await change_it(database.dsn, [change])
        await change_it(
            database.dsn, ["UPDATE words SET weight = 7 WHERE word = 'w3'", "DELETE FROM pets WHERE id = 1"]
        )
        error = await made.failure()
        assert isinstance(error, kind), repr(error)
        assert error.remedy
        await made.stop()
        with psycopg.connect(database.dsn) as target:
            assert target.execute("SELECT count(*) FROM store.pets").fetchone() == (20,), "half a transaction"


async def test_rows_that_are_changed_by_hand_are_divergence(database: Database, tmp_path: Path) -> None:
    """Nothing tells of it but the verifier; it mends nothing by itself."""
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        await change_it(
            database.dsn,
            [
                "SELECT set_config('replicator.pass', pass, true) FROM _replicator.secrets",
                "UPDATE store.words SET weight = 0 WHERE word = 'w1'",
                "DELETE FROM store.words WHERE word = 'w2'",
                "INSERT INTO store.words VALUES ('w', 0)",
            ],
        )
        found = (await compared(made)).divergences
        assert sorted((each.kind, each.key) for each in found) == [
            ("different", ("w1",)),
            ("extra", ("w",)),
            ("missing", ("w2",)),
        ]
