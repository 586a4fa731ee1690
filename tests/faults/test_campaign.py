"""Each kind of fault once, two in a run, and failpoints of each part: the short form of ``make faults``."""

import pytest

from replicator.failpoints import Failpoint, parse
from tests.faults import disk
from tests.faults.kinds import KINDS
from tests.faults.play import _points, plan_at, plan_for, plan_of, play
from tests.fix_postgres import Choice, Running, Server, _choices

SERVERS = ("pg18-pgoutput", "pg15-wal2json")
"""In turn, where they are found."""

AT = [
    [Failpoint.SLOT_MADE, Failpoint.CHUNK_WRITTEN, Failpoint.STATEMENT_DONE],
    [Failpoint.BATCH_COMMITTED, Failpoint.PHASE_COMING, Failpoint.CUTOVER_COMMITTED],
    [Failpoint.CUTOVER_COMMITTING, Failpoint.SETTLING, Failpoint.RETIRING],
]
HALF = (len(KINDS) + 1) // 2
PAIRS = [KINDS[n::HALF] for n in range(HALF)]
PLANS = [*(plan_for(pair, 1_000 + n) for n, pair in enumerate(PAIRS)), *(plan_at(at, n) for n, at in enumerate(AT))]


def server_for(request: pytest.FixtureRequest, number: int) -> Server:
    """One of the servers, with a cluster that may be stopped."""
    found: dict[str, Choice] = {str(each.id): each for each in _choices(request.config)}
    names = [name for name in SERVERS if name in found] or list(found)
    if not names:
        pytest.fail("No Postgres to test against was found.", pytrace=False)
    running: Running = request.getfixturevalue("_running")
    made = running.server(found[names[number % len(names)]])
    if made.cluster is None:
        pytest.skip(f"{made.id} is not ours to stop: it is given by its DSN or by Docker")
    return made


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", range(len(PLANS)), ids=[plan.name for plan in PLANS])
def test_it_is_survived(request: pytest.FixtureRequest, number: int) -> None:
    plan = PLANS[number]
    if any(kind.act is disk.fill for kind, _, _ in plan.faults) and (reason := disk.why_not()):
        pytest.skip(reason)
    result = play(plan, server_for(request, number))
    assert result.survived, f"{plan}: {result.wrong}; logs in {result.folder}"
    came = [name for name, _ in result.recoveries]
    assert [name for kind, _, _ in plan.faults if (name := kind.name) not in came] == [], "a fault did not come"
    assert len(plan.armings) == 0 or result.hits, "no failpoint was reached"


def test_a_plan_follows_from_its_seed() -> None:
    assert [str(plan_of(seed)) for seed in range(50)] == [str(plan_of(seed)) for seed in range(50)]


def test_the_long_run_arms_every_failpoint_and_breaks_in_every_way() -> None:
    plans = [plan_of(seed) for seed in range(1, 201)]
    armed = [point for plan in plans for life in plan.armings for point in parse(life)]
    assert {point: armed.count(point) for point in Failpoint if armed.count(point) < 4} == {}
    assert {kind.name for plan in plans for kind, _, _ in plan.faults} == {kind.name for kind in KINDS}


def test_points_differ_within_a_run() -> None:
    for number in range(100):
        assert len(set(_points(number))) == len(_points(number))
