"""Chunks that the server copies by itself: exactly what row by row would come of them, whatever is in them."""

from pathlib import Path

import pytest

from replicator import Migration
from replicator.backfill import copier
from replicator.backfill.whole_chunks import WholeChunks
from replicator.core.dirty_keys import Window
from replicator.postgres.control.progress import Chunk, backfill_progress
from replicator.postgres.session.connect import connection
from replicator.runtime.failpoints import Failpoint
from tests.engine import Engine, differences, engine, execute
from tests.fix_postgres import Database
from tests.small import entries
from tests.statements import one

pytestmark = pytest.mark.one_server

OLD = """
CREATE TABLE t (id integer PRIMARY KEY, v text, n text);
INSERT INTO t SELECT i, 'v' || i, i::text FROM generate_series(1, 200) i;
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.t (id bigint PRIMARY KEY, v varchar(10) NOT NULL, n integer CHECK (n <> 666));
"""
SELECT = "SELECT old.id, old.v, old.n::integer AS n WHERE old.v IS DISTINCT FROM 'none'"


def declared(folder: Path, select: str = SELECT, key: str = "old.id") -> Migration:
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(NEW)
    migration = Migration("chunks", old="public", new="shop", sql=folder, way_back=False)
    migration.sql_transform(source="t", into="t", sql=select, key=key, name="one")
    return migration


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each chunk, whether the server has copied it by itself."""
    found: list[bool] = []
    copy = WholeChunks.copy

    async def noted(self: WholeChunks, chunk: Chunk, window: Window) -> int | None:
        rows = await copy(self, chunk, window)
        found.append(rows is not None)
        return rows

    monkeypatch.setattr(WholeChunks, "copy", noted)
    return found


async def backfilled(made: Engine) -> None:
    await made.backfill()
    await made.drain()


async def test_no_row_passes_by(
    database: Database, tmp_path: Path, whole: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(database.dsn, [OLD, "UPDATE t SET v = 'none' WHERE id = 5"])
    monkeypatch.setattr(copier, "derive_all", None)
    async with engine(database, declared(tmp_path), chunk_rows=50) as made:
        await backfilled(made)
        assert whole == [True] * 5
        assert await differences(made) == []
        assert one(database.dsn, "SELECT count(*) FROM shop.t") == 199
        async with connection(database.dsn, "test") as target:
            (done,) = await backfill_progress(target, "forward")
        assert (done.rows, done.done) == (200, True)


BAD = {
    "transform": ("UPDATE t SET n = 'x' WHERE id = 7", "InvalidTextRepresentation"),
    "not null": ("UPDATE t SET v = NULL WHERE id = 7", '"v"'),
    "check": ("UPDATE t SET n = '666' WHERE id = 7", "check constraint"),
    "too long": ("UPDATE t SET v = repeat('x', 11) WHERE id = 7", "StringDataRightTruncation"),
}


async def test_only_the_bad_rows_chunk_is_looked_at_row_by_row(
    database: Database, tmp_path: Path, whole: list[bool]
) -> None:
    for place, (statement, _) in enumerate(BAD.values()):
        execute(database.dsn, [OLD if not place else "SELECT", statement.replace("7", str(7 + place))])
    async with engine(database, declared(tmp_path), chunk_rows=50) as made:
        await backfilled(made)
        assert whole.count(False) == 1
        found = entries(database.dsn)
        assert [(transform, key) for transform, key, _ in found] == [
            ("one", f'["{key}"]') for key in sorted(map(str, (7, 8, 9, 10)))
        ]
        errors = {key: error for _, key, error in found}
        for place, (_, says) in enumerate(BAD.values()):
            assert says in errors[f'["{7 + place}"]']
        assert one(database.dsn, "SELECT count(*) FROM shop.t") == 196


@pytest.mark.parametrize(
    ("select", "key", "says"),
    [
        ("SELECT old.id / 2 AS id, old.v WHERE old.id < 4", "old.id / 2", "Two source rows produce the same row"),
        ("SELECT old.id + 1000 * (old.id = 9)::integer AS id, old.v", "old.id", "returns another id than its key="),
        (
            "SELECT old.id, old.v FROM generate_series(1, 1 + (old.id = 9)::integer)",
            "old.id",
            "Two source rows produce",
        ),
    ],
)
async def test_keys_that_clash_or_disagree(
    database: Database, tmp_path: Path, whole: list[bool], select: str, key: str, says: str
) -> None:
    execute(database.dsn, [OLD])
    async with engine(database, declared(tmp_path, select, key), chunk_rows=50) as made:
        await backfilled(made)
        assert whole.count(False) == 1
        assert says in entries(database.dsn)[0][2]


async def test_what_the_stream_has_written_stays(
    database: Database, tmp_path: Path, whole: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that it wrote before the chunk's window, and those within it."""
    execute(database.dsn, [OLD])
    async with engine(database, declared(tmp_path), chunk_rows=50, workers=1) as made:
        execute(database.dsn, ["UPDATE t SET v = 'before' WHERE id IN (3, 160)", "DELETE FROM t WHERE id = 4"])
        await made.drain()
        once: list[bool] = []

        async def reach(point: Failpoint) -> None:
            if point is Failpoint.CHUNK_READ and not once:
                once.append(True)
                execute(
                    database.dsn,
                    [
                        "UPDATE t SET v = 'within' WHERE id IN (2, 170)",
                        "DELETE FROM t WHERE id IN (6, 180)",
                        "INSERT INTO t VALUES (0, 'new', 0)",
                    ],
                )
                await made.drain()

        monkeypatch.setattr("replicator.backfill.whole_chunks.reach", reach)
        await backfilled(made)
        assert once
        assert all(whole)
        assert await differences(made) == []
        assert one(database.dsn, "SELECT count(*) FROM shop.t WHERE v IN ('before', 'within')") == 4


@pytest.mark.parametrize("known", [True, False])
async def test_wide_rows_go_row_by_row(
    database: Database, tmp_path: Path, whole: list[bool], monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    """One statement would hold the stream up for as long as it takes."""
    execute(database.dsn, [OLD, "ANALYZE t" if known else "SELECT"])
    monkeypatch.setattr("replicator.backfill.whole_chunks.MOST_BYTES", 50)
    async with engine(database, declared(tmp_path), chunk_rows=50) as made:
        await backfilled(made)
        assert not any(whole)
        assert await differences(made) == []


async def test_what_the_stream_has_touched_is_left_to_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[bool]
) -> None:
    """The statement may still see a row whose deletion is applied already: only the stream knows that it is gone."""
    execute(database.dsn, [OLD])
    async with engine(database, declared(tmp_path)) as made:

        async def reach(point: Failpoint) -> None:
            if point is Failpoint.CHUNK_READ:
                made.running.context.dirty_keys.touch("t", [("6",), ("150",)])

        monkeypatch.setattr("replicator.backfill.whole_chunks.reach", reach)
        await made.backfill()
        assert all(whole)
        assert await differences(made) == [("t", "missing", ("150",)), ("t", "missing", ("6",))]
