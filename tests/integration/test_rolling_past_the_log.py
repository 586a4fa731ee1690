"""While both schemas take writes, rows change past the log: only the side that they are of can be let own the data."""

from pathlib import Path

import pytest

from replicator.errors import NotReadyError
from replicator.switchover.phases import Phase
from tests.bidirectional import rolling
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.statements import one
from tests.two_ways import create_old, two_ways

pytestmark = pytest.mark.one_server

REWRITTEN = "ALTER TABLE {} ALTER COLUMN body TYPE text USING body || ''"
"""Every row, and no word of it in the log."""


async def test_of_the_old_tables(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("replicator.daemon.mending.LOOK_SECONDS", 3_600.0)
    create_old(database.dsn)
    async with rolling(make_settings(database), two_ways(tmp_path)) as running:
        await running.open()
        execute(database.dsn, [REWRITTEN.format("notes").replace("''", "' again'")])
        await running.until(lambda: running.pipeline("forward").context.unseen)
        with pytest.raises(NotReadyError, match="Rows may have changed past the log") as refusal:
            await running.complete()
        assert "`replicator rollback`" in refusal.value.remedy
        # How long the lag has been low is a matter of time alone.
        assert {gate.name for gate in await running.session.gates.current() if not gate.ok} <= {"lag"}
        await running.close()
        assert running.session.phase.now == Phase.FOLLOW
        await running.clean()
        assert one(database.dsn, "SELECT bool_and(body LIKE '% again') FROM shop.notes") is True
        await running.open()
        await running.complete()


async def test_of_the_new_tables(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("replicator.daemon.mending.LOOK_SECONDS", 3_600.0)
    create_old(database.dsn)
    async with rolling(make_settings(database), two_ways(tmp_path)) as running:
        await running.open()
        execute(database.dsn, [REWRITTEN.format("shop.notes").replace("''", "' again'")])
        await running.until(lambda: running.pipeline("reverse").context.unseen)
        with pytest.raises(NotReadyError, match="Rows may have changed past the log") as refusal:
            await running.close()
        assert "`replicator cutover --complete`" in refusal.value.remedy
        await running.complete()
        assert running.session.phase.now == Phase.SOAK
        await running.clean()
        assert one(database.dsn, "SELECT bool_and(body LIKE '% again') FROM notes") is True
        await running.roll_back()


async def test_of_a_child_that_comes_and_goes(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are read with its parent's: they are not to be carried over, and from there into the parent."""
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("replicator.daemon.mending.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("replicator.daemon.mending.PAUSE_SECONDS", 0.05)
    create_old(database.dsn)
    async with rolling(make_settings(database), two_ways(tmp_path)) as running:
        await running.open()
        running.session.pipelines.start_mending()
        execute(database.dsn, ["CREATE TABLE child () INHERITS (notes)", "INSERT INTO child VALUES (-1, 'c-1', 'b')"])
        passes = running.pipeline("forward").verifier.passes
        await running.until(lambda: running.pipeline("forward").verifier.passes >= passes + 3)
        await running.quiet()
        assert one(database.dsn, "SELECT count(*) FROM shop.notes WHERE id = -1") == 0
        execute(database.dsn, ["DROP TABLE child"])
        await running.in_the_end(running.close)
        await running.clean()
        for table in ("notes", "shop.notes"):
            assert one(database.dsn, f"SELECT count(*) FROM {table} WHERE id = -1") == 0
