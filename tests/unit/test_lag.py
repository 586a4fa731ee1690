"""Lag in bytes and in seconds, and for how long it has been low."""

import pytest

from replicator.core.lag import GAP_SECONDS, LagMeter
from replicator.core.lsn import LSN


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lag(clock: Clock) -> LagMeter:
    return LagMeter(clock)


def observe(
    lag: LagMeter, clock: Clock, source: int, applied: int, ago: float | None = None, *, after: float = 1.0
) -> None:
    clock.now += after
    lag.observe(LSN(source), LSN(applied), 2.5, ago)


def test_the_oldest_position_that_is_not_applied_counts(lag: LagMeter, clock: Clock) -> None:
    assert (lag.bytes, lag.seconds, lag.low_for) == (None, None, 0.0)
    for position in (100, 200, 300, 400):
        observe(lag, clock, position, 100)
    assert (lag.bytes, lag.seconds) == (300, 2.0)
    observe(lag, clock, 400, 300)
    assert (lag.bytes, lag.seconds) == (100, 1.0)
    observe(lag, clock, 400, 400)
    assert (lag.bytes, lag.seconds) == (0, 0.0)


def test_low_is_a_matter_of_time_and_not_of_bytes(lag: LagMeter, clock: Clock) -> None:
    """Other databases' log, and our own writes, are megabytes a second that nobody waits for."""
    for second in range(10):
        observe(lag, clock, (second + 1) * 50_000_000, second * 50_000_000)
    assert lag.low_for == 9.0
    for second in range(10, 14):
        observe(lag, clock, (second + 1) * 10, 0)
    assert lag.low_for == 0.0


def test_who_has_not_looked_knows_nothing_of_the_time_between(lag: LagMeter, clock: Clock) -> None:
    for _ in range(10):
        observe(lag, clock, 100, 100)
    assert lag.low_for == 9.0
    clock.now += GAP_SECONDS + 1
    assert lag.low_for == 0.0, "nobody has looked"
    observe(lag, clock, 900, 100, after=14.0)
    assert lag.seconds == GAP_SECONDS + 15.0
    assert lag.low_for == 0.0
    observe(lag, clock, 900, 900)
    assert (lag.seconds, lag.low_for) == (0.0, 0.0)
    observe(lag, clock, 900, 900)
    assert lag.low_for == 1.0


def test_the_lag_outlives_a_restart(lag: LagMeter, clock: Clock) -> None:
    lag.resume(180.0)
    observe(lag, clock, 661_000_000, 0)
    assert lag.seconds == 181.0
    observe(lag, clock, 661_000_000, 1_000)
    assert lag.seconds == 182.0
    observe(lag, clock, 661_000_000, 300_000_000, ago=90.0)
    assert lag.seconds == 90.0, "what was committed before the last transaction that is applied is applied"
    observe(lag, clock, 661_000_000, 661_000_000, ago=5.0)
    assert lag.seconds == 0.0


def test_after_a_short_restart_nothing_is_made_up(lag: LagMeter, clock: Clock) -> None:
    lag.resume(0.5)
    observe(lag, clock, 100, 90)
    assert lag.seconds == 0.0
