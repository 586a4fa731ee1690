"""Each kind of fault once, two in a run, and failpoints of each part: the short form of ``make faults``."""

import pytest

from replicator.runtime.failpoints import Failpoint, parse
from tests.faults import disk
from tests.faults.kinds import GROUND, KINDS
from tests.faults.plans import GROUNDS, _points, plan_at, plan_for, plan_of, plan_rolling
from tests.faults.play import play
from tests.fix_postgres import Running, Server, _choices
from tests.servers import Choice

SERVERS = ("pg18-pgoutput", "pg15-wal2json")
"""In turn, where they are found."""

AT = [
    [Failpoint.SLOT_MADE, Failpoint.CHUNK_WRITTEN, Failpoint.STATEMENT_DONE],
    [Failpoint.BATCH_COMMITTED, Failpoint.PHASE_COMING, Failpoint.CUTOVER_COMMITTED],
    [Failpoint.CUTOVER_COMMITTING, Failpoint.SETTLING, Failpoint.RETIRING],
]
HALF = (len(KINDS) + 1) // 2
PAIRS = [KINDS[n::HALF] for n in range(HALF)]
ROLLING = plan_rolling(next(kind for kind in GROUND if kind.name == "row security"), 1_100)
RENAMING = plan_at([Failpoint.CUTOVER_COMMITTING, Failpoint.CUTOVER_COMMITTED], 4, renames=True, back=True)
PLANS = [
    *(plan_for(pair, 1_000 + n) for n, pair in enumerate(PAIRS)),
    *(plan_at(at, n) for n, at in enumerate(AT)),
    RENAMING,
    ROLLING,
]


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


def test_the_long_run_changes_the_ground_in_every_way_at_every_milestone() -> None:
    plans = [plan_of(seed) for seed in range(1, 201)]
    changed = [(kind, milestone) for plan in plans for kind, milestone, _ in plan.faults]
    assert {(kind.name, milestone) for kind, milestone in GROUNDS if (kind, milestone) not in changed} == set()


def test_every_milestone_of_a_plan_is_reached() -> None:
    for plan in (plan_of(seed) for seed in range(1, 2_001)):
        missed = [] if plan.moves else ["move", "cutover", "soak"]
        missed += ["soak"] if plan.straight_back else []
        missed += [] if plan.rolling else ["rolling"]
        missed += [] if plan.back else ["back", "rollback"]
        assert not any(plan.at(each) for each in missed), plan
        assert not (plan.rolling and plan.renames), plan
        kinds = [kind for kind, _, _ in plan.faults]
        assert not (plan.partitioned and any(kind.plain for kind in kinds)), plan
        assert len(set(kinds)) == len(kinds), plan


def test_the_long_run_lets_both_schemas_take_writes_often_enough() -> None:
    rolling = [plan for plan in (plan_of(seed) for seed in range(1, 201)) if plan.rolling]
    assert len(rolling) > 20
    assert {plan.apart for plan in rolling} == {plan.back for plan in rolling} == {True, False}
    assert any(plan.straight_back for plan in rolling)


def test_the_short_form_kills_within_a_cutover_that_renames_and_rolls_it_back() -> None:
    assert RENAMING.armings == ["cutover_committing:1:kill", "cutover_committed:1:kill"]
    assert "cutover --strategy rename and rollback" in str(RENAMING)


def test_the_long_run_renames_within_one_database_often_enough() -> None:
    plans = [plan_of(seed) for seed in range(1, 201)]
    renaming = [plan for plan in plans if plan.renames]
    assert len(renaming) > sum(plan.moves for plan in plans) / 5
    assert sum(plan.back for plan in renaming) > 10
    assert all(plan.moves and not plan.apart for plan in renaming)


def test_points_differ_within_a_run() -> None:
    for number in range(100):
        assert len(set(_points(number))) == len(_points(number))
