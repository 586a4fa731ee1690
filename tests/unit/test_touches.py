"""Windows and touches: what the stream has written while a read was under way."""

import pytest

from replicator.touches import TouchLog, WindowSpoiled

A, B = ("a",), ("b",)


def test_a_touch_inside_the_window_counts_and_one_before_it_does_not() -> None:
    log = TouchLog()
    with log.window() as outer:
        log.touch("t", [A])
        with log.window() as inner:
            log.touch("t", [B])
            assert A in log.touched("t", outer)
            assert A not in log.touched("t", inner)
            assert B in log.touched("t", inner)
            assert B not in log.touched("other", inner)


def test_the_last_touch_counts() -> None:
    log = TouchLog()
    with log.window():
        log.touch("t", [A])
        with log.window() as inner:
            log.touch("t", [A])
            assert A in log.touched("t", inner)


def test_touching_all_touches_every_key_for_as_long_as_the_window_is_open() -> None:
    log = TouchLog()
    with log.window() as window:
        assert not log.touched("t", window).everything
        log.touch_all("t")
        log.settle_all("t", log.now)
        assert log.touched("t", window).everything
        assert ("never seen",) in log.touched("t", window)
    with log.window() as later:
        assert A not in log.touched("t", later)


def test_nothing_is_remembered_for_nobody() -> None:
    log = TouchLog()
    log.touch("t", [A])
    assert log.unsettled_count() == 0
    with log.window():
        log.touch("t", [A])
        assert log.unsettled_count() == 1
    assert log.unsettled_count() == 0


def test_an_open_window_keeps_what_a_closing_one_no_longer_needs() -> None:
    log = TouchLog()
    with log.window() as outer:
        with log.window():
            log.touch("t", [A])
        assert A in log.touched("t", outer)


def test_too_many_keys_spoil_the_open_windows_and_no_later_one() -> None:
    log = TouchLog(capacity=3)
    with log.window() as window:
        log.touch("t", [(str(number),) for number in range(4)])
        with pytest.raises(WindowSpoiled):
            log.touched("t", window)
        with log.window() as later:
            assert ("1",) not in log.touched("t", later)
            log.touch("t", [A])
            assert A in log.touched("t", later)


def test_a_key_waits_until_it_is_compared() -> None:
    log = TouchLog()
    log.start_keeping()
    log.touch("t", [A])
    log.touch("t", [B])
    log.touch("t", [A])
    assert [key for key, _ in log.unsettled("t")] == [B, A]
    assert [key for key, _ in log.unsettled("t", 1)] == [B]
    compared = log.unsettled("t")
    log.touch("t", [B])
    log.settle("t", compared)
    assert [key for key, _ in log.unsettled("t")] == [B]


def test_settling_does_not_blind_an_open_window() -> None:
    log = TouchLog()
    log.start_keeping()
    with log.window() as window:
        log.touch("t", [A])
        log.settle("t", log.unsettled("t"))
        assert A in log.touched("t", window)


def test_a_lost_count_asks_for_a_full_pass() -> None:
    log = TouchLog(capacity=1)
    log.start_keeping()
    before = log.now
    log.touch("t", [A, B])
    assert log.lost_count_since(before)
    assert not log.lost_count_since(log.now)
