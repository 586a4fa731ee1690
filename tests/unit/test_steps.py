"""The steps of a switchover: where the time goes while writers wait."""

from collections.abc import Iterator

from replicator.switchover.steps import Steps


def clock(*times: float) -> Iterator[float]:
    yield from times


def steps_at(*times: float) -> Steps:
    ticks = clock(*times)
    return Steps(lambda: next(ticks))


def test_each_moment_belongs_to_one_step() -> None:
    steps = steps_at(10.0, 10.5, 12.0, 12.25)
    steps.at("before")
    steps.begin("lock")
    steps.at("drain")
    steps.at("commit")
    steps.end()
    steps.end()
    steps.at("afterwards")
    assert steps.told == [
        {"step": "lock", "seconds": 0.5},
        {"step": "drain", "seconds": 1.5},
        {"step": "commit", "seconds": 0.25},
    ]


def test_a_step_that_comes_twice_has_the_sum() -> None:
    steps = steps_at(0.0, 1.0, 3.0, 7.0)
    steps.begin("lock")
    steps.at("drain")
    steps.at("lock")
    steps.end()
    assert steps.told == [{"step": "lock", "seconds": 5.0}, {"step": "drain", "seconds": 2.0}]


def test_what_fails_before_the_pause_took_no_time() -> None:
    steps = steps_at()
    steps.end()
    assert (steps.now, steps.told) == ("begin", [])
