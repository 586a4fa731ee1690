"""When a query counts as slower than its twin."""

import random

import pytest

from replicator.runbook.baseline import FEWEST, is_slower


def noisy(median: float, runs: int, seed: int) -> list[float]:
    """Times as servers have them: most near the median, some far above."""
    chosen = random.Random(seed)
    return [median * (1 + abs(chosen.gauss(0, 0.05))) * (5 if chosen.random() < 0.05 else 1) for _ in range(runs)]


@pytest.mark.parametrize(
    "old, new, slower",
    [
        (1.0, 1.0, False),
        (1.0, 1.05, False),
        (1.0, 1.5, True),
        (1.0, 0.5, False),
        (0.2, 0.29, False),  # a matter of 0.09 ms
        (0.2, 0.5, True),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_what_is_slower(old: float, new: float, slower: bool, seed: int) -> None:
    assert is_slower(noisy(old, 20, seed), noisy(new, 20, seed + 100)) is slower


def test_a_few_pairs_that_are_apart_may_be_chance() -> None:
    old = [1.0] * 20
    assert not is_slower(old, [1.05] * 9 + [9.0] * 11)
    assert is_slower(old, [1.05] * 4 + [9.0] * 16)


def test_the_fewest_runs_can_tell_and_one_less_cannot() -> None:
    assert is_slower([1.0] * FEWEST, [2.0] * FEWEST)
    assert not is_slower([1.0] * (FEWEST - 1), [2.0] * (FEWEST - 1))


def test_a_server_that_is_slow_for_a_while_is_slow_for_both() -> None:
    busy = [1.0] * 10 + [8.0] * 10
    assert not is_slower(busy, [each * 1.02 for each in busy])
