"""Windows and touches: what the stream has written while a read was under way."""

import pytest

from replicator.core.dirty_keys import DirtyKeys, Waiting, WindowSpoiled

A, B = ("a",), ("b",)


def test_a_touch_inside_the_window_counts_and_one_before_it_does_not() -> None:
    log = DirtyKeys()
    with log.window() as outer:
        log.touch("t", [A])
        with log.window() as inner:
            log.touch("t", [B])
            assert A in log.touched("t", outer)
            assert A not in log.touched("t", inner)
            assert B in log.touched("t", inner)
            assert B not in log.touched("other", inner)


def test_the_last_touch_counts() -> None:
    log = DirtyKeys()
    with log.window():
        log.touch("t", [A])
        with log.window() as inner:
            log.touch("t", [A])
            assert A in log.touched("t", inner)


def test_touching_all_touches_every_key_for_as_long_as_the_window_is_open() -> None:
    log = DirtyKeys()
    with log.window() as window:
        assert not log.touched("t", window).everything
        log.touch_all("t")
        log.settle_whole("t", log.now)
        assert log.touched("t", window).everything
        assert ("never seen",) in log.touched("t", window)
    with log.window() as later:
        assert A not in log.touched("t", later)


def test_nothing_is_remembered_for_nobody() -> None:
    log = DirtyKeys()
    log.touch("t", [A])
    assert log.waiting_count() == 0
    with log.window():
        log.touch("t", [A])
        assert log.waiting_count() == 1
    assert log.waiting_count() == 0


def test_an_open_window_keeps_what_a_closing_one_no_longer_needs() -> None:
    log = DirtyKeys()
    with log.window() as outer:
        with log.window():
            log.touch("t", [A])
        assert A in log.touched("t", outer)


def test_too_many_keys_spoil_the_open_windows_and_no_later_one() -> None:
    log = DirtyKeys(capacity=3)
    with log.window() as window:
        log.touch("t", [(str(number),) for number in range(4)])
        with pytest.raises(WindowSpoiled):
            log.touched("t", window)
        with log.window() as later:
            assert ("1",) not in log.touched("t", later)
            log.touch("t", [A])
            assert A in log.touched("t", later)


def waiting(log: DirtyKeys, limit: int = 100) -> Waiting:
    found = log.waiting("t", limit)
    assert found is not None
    return found


def test_a_key_waits_until_it_is_compared() -> None:
    log = DirtyKeys()
    log.start_keeping()
    log.touch("t", [A])
    log.touch("t", [B])
    log.touch("t", [A])
    assert list(waiting(log).touched) == [B, A]
    assert list(waiting(log, 1).touched) == [B]
    compared = waiting(log)
    log.touch("t", [B])
    log.settle(compared)
    assert list(log.waiting_keys("t")) == [B]
    log.settle(waiting(log), still=[B])
    assert list(log.waiting_keys("t")) == [B]


def test_keys_that_were_touched_together_are_compared_together() -> None:
    log = DirtyKeys()
    log.start_keeping()
    log.touch("t", [A, B])
    log.touch("t", [("c",)])
    assert list(waiting(log, 1).touched) == [A, B]
    assert list(log.waiting("t", 9, after=1).touched) == [("c",)]  # type: ignore[union-attr]
    assert log.waiting("t", 9, after=1, until=1) is None


def test_settling_does_not_blind_an_open_window() -> None:
    log = DirtyKeys()
    log.start_keeping()
    with log.window() as window:
        log.touch("t", [A])
        log.settle(waiting(log))
        assert A in log.touched("t", window)
        assert log.touched("t", window).keys() == [A]


def keys(first: int, last: int) -> list[tuple[str, ...]]:
    return [(str(number), 'with "quotes"\nand é') for number in range(first, last)]


def test_keys_that_memory_has_no_room_for_wait_on_disk_and_none_is_lost() -> None:
    log = DirtyKeys(capacity=10)
    log.start_keeping()
    for first in range(0, 50, 5):
        log.touch("t", keys(first, first + 5))
    assert log.waiting_count() == 50
    assert sorted(log.waiting_keys("t")) == sorted(keys(0, 50))
    assert 0 < 50 - log.on_disk("t") <= 10
    assert not log.waits_whole("t")
    compared = []
    while on_disk := log.waiting_on_disk("t", 7):
        log.settle(on_disk, still=[key for key in on_disk.touched if key == keys(3, 4)[0]])
        compared += list(on_disk.touched)
    assert keys(3, 4)[0] in log.waiting_keys("t")
    log.settle(waiting(log))
    compared += keys(50 - 10, 50)
    assert set(compared) >= set(keys(0, 50))
    assert log.waiting_count() == 0


def test_windows_that_are_younger_than_what_went_to_disk_are_not_spoiled() -> None:
    log = DirtyKeys(capacity=10)
    log.start_keeping()
    for first in range(10):
        log.touch("t", keys(first, first + 1))
    with log.window() as window:
        log.touch("t", keys(10, 11))
        assert log.on_disk("t") == 6
        assert keys(10, 11)[0] in log.touched("t", window)
        assert keys(7, 8)[0] not in log.touched("t", window)


def test_what_is_taken_from_disk_is_not_dropped_twice_when_all_was_touched_meanwhile() -> None:
    log = DirtyKeys(capacity=4)
    log.start_keeping()
    log.touch("t", keys(0, 5))
    before = log.waiting_on_disk("t", 100)
    assert before is not None
    log.touch_all("t")
    log.touch("t", keys(10, 15))
    assert log.on_disk("t") == 3
    log.settle(before)
    assert log.on_disk("t") == 3


@pytest.mark.parametrize("most", [0, 10])
def test_what_neither_memory_nor_disk_takes_makes_the_whole_source_wait(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if most:
        monkeypatch.setattr("replicator.core.spill.Spill.append", full)
    log = DirtyKeys(capacity=4, spilled_most=most)
    log.start_keeping()
    log.touch("t", keys(0, 5))
    assert log.waits_whole("t")
    assert not log.waits_whole("other")
    with log.window() as window:
        log.touch("t", [A])
        assert A in log.touched("t", window)
        assert B not in log.touched("t", window)
