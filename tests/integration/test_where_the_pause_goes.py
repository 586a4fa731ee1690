"""The journal says of each attempt how long each step took, and the daemon measures how late its event loop is."""

import io

import pytest
from rich.console import Console

from replicator.cli import views
from replicator.errors import CutoverError
from replicator.postgres.control.journal import Entry, read_journal
from replicator.postgres.session.connect import connection
from tests.engine import make_settings
from tests.fix_postgres import Database
from tests.reference import seed
from tests.sessions import daemon

pytestmark = pytest.mark.one_server


async def entries(database: Database, event: str) -> list[Entry]:
    async with connection(database.dsn, "test") as opened:
        return [each for each in await read_journal(opened) if each.event == event]


def seconds(entry: Entry) -> dict[str, float]:
    return {each["step"]: each["seconds"] for each in entry.details["steps"]}


async def test_each_step_of_a_switchover_is_in_the_journal(database: Database) -> None:
    seed(database.dsn)
    async with daemon(make_settings(database)) as running:
        await running.ready()
        await running.cut_over(dry_run=True)
        result = await running.cut_over()
        await running.clean()
        await running.roll_back()
    for event in ("dry run", "cutover", "rollback"):
        (entry,) = await entries(database, event)
        took = seconds(entry)
        assert list(took)[:2] == ["lock", "drain"]
        assert ("commit" in took) is (event != "dry run")
        assert {"ground", "final check", "guards", "state row", "foreign keys"} <= took.keys()
        assert sum(took.values()) == pytest.approx(entry.details["pause"], abs=0.005)
    (entry,) = await entries(database, "cutover")
    assert entry.details["pause"] == result.write_pause_seconds


async def test_so_is_where_a_failed_attempt_lost_its_time(database: Database) -> None:
    seed(database.dsn)
    async with daemon(make_settings(database, max_write_pause=2)) as running:
        await running.ready()
        assert running.active is not None
        await running.active.write_gate.pause()
        with pytest.raises(CutoverError, match="'drain' took the time"):
            await running.cut_over()
    (entry,) = await entries(database, "attempt")
    assert entry.details["failed"] == "drain"
    assert list(took := seconds(entry)) == ["lock", "drain"]
    assert took["drain"] > took["lock"]
    shown = io.StringIO()
    Console(file=shown, width=1_000).print(views.journal([entry]))
    assert f"steps: lock {took['lock'] * 1e3:.1f} ms, drain {took['drain'] * 1e3:.1f} ms" in shown.getvalue()


async def test_the_event_loop_is_watched(database: Database) -> None:
    seed(database.dsn)
    async with daemon(make_settings(database)) as running:
        metrics = running.session.metrics
        await running.until(lambda: metrics.registry.get_sample_value("replicator_loop_lag_seconds_count"))
