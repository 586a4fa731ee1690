"""Random histories of the old tables, interleaved with backfill, stream and restarts: the target comes to f(source).

And it does so because of invariants I3 and I4: with either switched off, it does not.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings

from replicator.postgres.snapshots import Visibility
from replicator.touches import Touched
from tests.fix_postgres import Database, MakeCluster
from tests.histories import (
    Copy,
    CopyTo,
    Delete,
    Follow,
    History,
    Insert,
    Show,
    commit,
    histories,
)
from tests.play import Finding, Player

EXAMPLES: Final = int(os.environ.get("REPLICATOR_TEST_HISTORIES", "10"))
"""How many histories of each kind; hundreds take minutes."""

QUIET: Final = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

Play = Callable[[History], list[Finding]]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture
def play(database: Database, runner: asyncio.Runner) -> Iterator[Play]:
    """Plays histories, old and new schema in one database."""
    player = Player(database)
    yield lambda history: runner.run(player.play(history))
    runner.run(player.close())


@pytest.fixture
def play_hidden(database: Database, make_cluster: MakeCluster, runner: asyncio.Runner) -> Iterator[Play]:
    """Plays histories with hidden commits: on a source whose commits can be made to wait for a standby."""
    cluster = make_cluster(synchronous_standby_names="nobody", synchronous_commit="local")
    source = Database("postgres", cluster.dsn(), database.plugin, database.version, database.server)
    player = Player(source, database)
    yield lambda history: runner.run(player.play(history))
    runner.run(player.close())


def test_histories_lead_to_the_same_target(play: Play) -> None:
    @QUIET
    @given(histories(hidden=False))
    def holds(history: History) -> None:
        assert play(history) == []

    holds()


def test_histories_with_commits_streamed_before_they_are_visible(play_hidden: Play) -> None:
    @QUIET
    @given(histories(hidden=True))
    def holds(history: History) -> None:
        assert play_hidden(history) == []

    holds()


REQUEST: Final = {
    "id": "r1", "track_uri": "u", "track_name": "n", "artist_name": "a", "duration_ms": 1, "requester_ip_hash": "h",
}  # fmt: skip

DELETED_WHILE_A_CHUNK_IS_OPEN: Final = History(
    [Insert("requests", REQUEST)],
    [CopyTo(0, "read requests"), *commit(Delete("requests", "r1")), Follow(), CopyTo(0, "written requests")],
)

DELETED_AND_NOT_YET_INVISIBLE: Final = History(
    [Insert("requests", REQUEST)],
    [*commit(Delete("requests", "r1"), end="hidden"), Follow(), Copy(0, 30), Show()],
)


def test_a_deleted_row_stays_deleted_only_because_of_the_window(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    assert play(DELETED_WHILE_A_CHUNK_IS_OPEN) == []
    monkeypatch.setattr(Touched, "__contains__", lambda *_: False)
    assert ("backfill", "requests", "extra") in {each[:3] for each in play(DELETED_WHILE_A_CHUNK_IS_OPEN)}


def test_a_deleted_row_stays_deleted_only_because_of_the_wait(
    play_hidden: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert play_hidden(DELETED_AND_NOT_YET_INVISIBLE) == []
    monkeypatch.setattr(Visibility, "admits", lambda *_: True)
    assert ("backfill", "requests", "extra") in {each[:3] for each in play_hidden(DELETED_AND_NOT_YET_INVISIBLE)}
