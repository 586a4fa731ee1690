"""Random histories of the old tables, interleaved with backfill, stream and restarts: the target comes to f(source).

And it does so because of invariants I3 and I4: with either switched off, it does not.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

from replicator.core.dirty_keys import Touched
from replicator.core.rw_lock import ReadWriteLock
from replicator.demo.embedded import Cluster
from replicator.errors import ReplicatorError
from replicator.postgres.wire.snapshots import Visibility
from tests.fix_postgres import Database, MakeCluster, _choices, fresh_database
from tests.histories import (
    Copy,
    CopyTo,
    Delete,
    Deliver,
    Follow,
    History,
    Insert,
    Long,
    Operation,
    Rekey,
    Restart,
    Show,
    Truncate,
    Update,
    commit,
    histories,
    removing_histories,
)
from tests.play import Finding, Player

GIVEN: Final = os.environ.get("REPLICATOR_TEST_HISTORIES")
"""How many histories of each kind to play; hundreds take minutes."""

QUIET: Final = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
PLAYED: Final = settings(QUIET, max_examples=int(GIVEN or 10))
SEARCHED: Final = settings(QUIET, max_examples=150, database=None, phases=[Phase.generate])

HIDING: Final = {"synchronous_standby_names": "nobody", "synchronous_commit": "local"}
"""Settings of a server on which a commit is hidden when it asks for a standby."""

Play = Callable[[History], list[Finding]]

pytestmark = [pytest.mark.two_servers, pytest.mark.timeout(3_600 if GIVEN else 600)]


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
    cluster = make_cluster(**HIDING)
    source = Database("postgres", cluster.dsn(), database.plugin, database.version, database.server)
    player = Player(source, database)
    yield lambda history: runner.run(player.play(history))
    runner.run(player.close())


# ---- whatever happens


def test_histories_lead_to_the_same_target(play: Play) -> None:
    @PLAYED
    @given(histories(hidden=False))
    def holds(history: History) -> None:
        assert play(history) == []

    holds()


@pytest.mark.one_server
def test_histories_with_commits_streamed_before_they_are_visible(play_hidden: Play) -> None:
    @PLAYED
    @given(histories(hidden=True))
    def holds(history: History) -> None:
        assert play_hidden(history) == []

    holds()


# ---- the invariants, switched off


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """I3 without its first half: a chunk does not look at what the stream has touched."""
    monkeypatch.setattr(Touched, "__contains__", lambda *_: False)


def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """I3 without its second half: the applier does not wait for a chunk that is being written, nor that for it."""

    @asynccontextmanager
    async def at_once(*_: object) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(ReadWriteLock, "read", at_once)
    monkeypatch.setattr(ReadWriteLock, "write", at_once)


def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4 without its wait: any snapshot will do."""
    monkeypatch.setattr(Visibility, "admits", lambda *_: True)


SwitchOff = Callable[[pytest.MonkeyPatch], None]

REQUEST: Final = {
    "id": "r1", "track_uri": "u", "track_name": "n", "artist_name": "a", "duration_ms": 1, "requester_ip_hash": "h",
}  # fmt: skip
BEFORE: Final = [Insert("requests", REQUEST)]
GOES: Final[dict[str, Operation]] = {
    "deleted": Delete("requests", "r1"),
    "given another key": Rekey("requests", "r1", "r2"),
    "truncated": Truncate(["admins", "requests"]),
}


def meanwhile(point: str, *operations: Operation) -> History:
    """Something happens, and is applied, when a copier has come so far with the requests."""
    return History(BEFORE, [CopyTo(0, point), *commit(*operations), Follow(), CopyTo(0, "written requests")])


@pytest.mark.one_server
@pytest.mark.parametrize(
    ("switch_off", "point", "goes"),
    [
        (blind, "snapshot requests", "deleted"),
        (blind, "snapshot requests", "given another key"),
        *((blind, "read requests", goes) for goes in GOES),
        *((careless, "write requests", goes) for goes in GOES),
    ],
)
def test_a_row_that_goes_while_its_chunk_is_copied_comes_back_without_i3(
    play: Play, monkeypatch: pytest.MonkeyPatch, switch_off: SwitchOff, point: str, goes: str
) -> None:
    history = meanwhile(point, GOES[goes])
    assert play(history) == []
    switch_off(monkeypatch)
    assert ("backfill", "requests", "extra") in {each[:3] for each in play(history)}


HIDDEN: Final[dict[str, tuple[History, Finding]]] = {
    "a chunk": (
        History(BEFORE, [*commit(Delete("requests", "r1"), end="hidden"), Follow(), Copy(0, 30), Show()]),
        ("backfill", "requests", "extra"),
    ),
    "a query read again": (
        History(
            [Insert("settings", {"key": "x", "value": "old"})],
            [],
            [*commit(Update("settings", "x", {"value": "new"}), end="hidden"), Follow(), Show()],
        ),
        ("follow", "events", "different"),
    ),
    "a value that the log leaves out": (
        History(
            [Insert("requests", REQUEST | {"rejection_reason": Long(1)})],
            [],
            [*commit(Update("requests", "r1", {"status": "played"}), end="hidden"), Follow(), Show()],
        ),
        ("follow", "requests", "different"),
    ),
}


@pytest.mark.one_server
@pytest.mark.parametrize("read", HIDDEN)
def test_what_is_not_visible_yet_is_missed_without_i4(
    play_hidden: Play, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    history, missed = HIDDEN[read]
    assert play_hidden(history) == []
    hasty(monkeypatch)
    assert missed in {each[:3] for each in play_hidden(history)}


@pytest.fixture
def play_once(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Play]:
    """Like ``play_hidden``, on one server only: for what takes its time and does not differ between them."""
    server = request.getfixturevalue("_running").server(_choices(request.config)[0])
    if server.cluster is None:
        pytest.skip("needs server binaries, for commits that can be hidden")
    with Cluster(server.cluster.programs, settings=HIDING) as cluster, fresh_database(server) as target:
        source = Database("postgres", cluster.dsn(), target.plugin, target.version, server)
        player = Player(source, target)
        yield lambda history: runner.run(player.play(history))
        runner.run(player.close())


@pytest.mark.skipif(not GIVEN, reason="it takes minutes; REPLICATOR_TEST_HISTORIES says how many histories to play")
@pytest.mark.parametrize(("switch_off", "hidden"), [(blind, False), (careless, False), (hasty, True)])
def test_random_histories_find_it(
    play_once: Play, monkeypatch: pytest.MonkeyPatch, switch_off: SwitchOff, hidden: bool
) -> None:
    wrong: list[History] = []

    def goes_wrong(history: History) -> bool:
        if not wrong:  # one is enough: it is not to be made smaller
            with suppress(ExceptionGroup, ReplicatorError):  # what is broken may also fail; here it is to be wrong
                wrong.extend([history] if play_once(history) else [])
        return bool(wrong)

    switch_off(monkeypatch)
    find(removing_histories(hidden=hidden), goes_wrong, settings=SEARCHED)
    assert wrong


# ---- what has gone wrong before


def test_a_large_transaction_behind_a_mere_position(play: Play) -> None:
    many = [Insert("requests", REQUEST | {"id": f"r{number}"}) for number in range(9)]
    assert play(History([], [Deliver(), *commit(*many), Follow()])) == []


def test_a_new_daemon_does_not_miss_what_the_one_before_it_was_given(play_hidden: Play) -> None:
    """A deletion that is applied and not visible yet, and will not come again: a chunk must wait until it sees it."""
    gone = [*commit(Delete("requests", "r1"), end="hidden"), Follow(), Restart()]
    assert play_hidden(History(BEFORE, [*gone, Copy(0, 30), Show()])) == []
