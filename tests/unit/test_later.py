"""What was refused because of other rows is tried again: soon, then ever more rarely, and never for ever in vain."""

from datetime import UTC, datetime

import pytest

from replicator.apply import later
from replicator.apply.dates import Dates
from replicator.apply.later import Later
from replicator.core.lsn import LSN
from replicator.core.tables import Key
from replicator.postgres.control.quarantine import Failure

ONE, TWO = ("things", ("1",)), ("things", ("2",))


class Clock:
    """Stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def failure(source: str, key: Key) -> Failure:
    return Failure(transform="thing", source=source, source_key=key, error="refused", fingerprint="")


def transaction(
    tried: Later, *owners: tuple[str, Key], end: int, ahead: int = 0, dates: Dates | None = None, take: bool = True
) -> list[tuple[str, Key]]:
    """One that ends at ``end``, in which these are refused by others; gives what was tried again in it."""
    tried.begin()
    due = tried.take(LSN(end), lambda *_: True, dated=dates is not None) if take else []
    for owner in owners:
        tried.clashed(*owner)
    tried.commit([failure(*owner) for owner in owners], LSN(end), LSN(ahead), dates or Dates())
    return [(source, key) for each in due for source, keys in each.dirty.items() for key in keys]


def test_it_is_tried_as_soon_as_the_stream_has_come_to_what_was_read() -> None:
    tried = Later(Clock())
    transaction(tried, ONE, end=5, ahead=9)
    assert not tried.is_due(LSN(8))
    assert not tried.is_due(None)
    assert tried.is_due(LSN(9))
    assert transaction(tried, end=9) == [ONE]
    assert not tried.is_due(LSN(99)), "it fitted"


def test_what_stays_refused_is_tried_ever_more_rarely() -> None:
    """Although the source is busy: what was read is always newer than the stream."""
    clock = Clock()
    tried = Later(clock)
    times = 0
    for second in range(3_600):
        clock.now = 100.0 + second
        for _ in range(3):
            times += len(transaction(tried, ONE, end=second, ahead=second + 1, take=tried.is_due(LSN(second))))
    assert times == 0, "each transaction brought it anew"
    transaction(tried, ONE, end=4_000, ahead=4_001)
    for second in range(3_600):
        clock.now += 1.0
        for _ in range(3):
            position = 4_001 + second
            if tried.is_due(LSN(position)):
                found = transaction(tried, ONE, end=position, ahead=position + 1)
                assert found == [ONE]
                times += 1
    assert 50 < times < 80


def test_it_is_not_waited_for_once_that_was_in_vain() -> None:
    clock = Clock()
    tried = Later(clock)
    transaction(tried, ONE, end=5, ahead=9)
    assert not tried.is_stubborn(*ONE)
    (again,) = tried.take(LSN(9), lambda *_: True)
    assert not again.stubborn
    transaction(tried, ONE, end=9, ahead=12)
    assert tried.is_stubborn(*ONE)
    assert not tried.is_due(LSN(12)), "not before a moment has passed"
    clock.now += later.PAUSE
    (again,) = tried.take(LSN(12), lambda *_: True)
    assert again.stubborn


def test_what_clashed_with_nothing_that_was_read_waits_a_moment() -> None:
    clock = Clock()
    tried = Later(clock)
    transaction(tried, ONE, end=9, ahead=3)
    assert not tried.is_due(LSN(99))
    clock.now += later.PAUSE
    assert transaction(tried, end=9) == [ONE]


def test_what_is_resolved_or_refused_for_itself_is_forgotten() -> None:
    clock = Clock()
    tried = Later(clock)
    transaction(tried, ONE, TWO, end=5, ahead=9)
    tried.begin()
    assert tried.take(LSN(9), lambda _, key: key == ("2",))[0].dirty == {"things": {("2",)}}
    tried.commit([failure(*TWO)], LSN(9), LSN(9), Dates())  # refused, but by no other row
    clock.now += 3_600
    assert not tried.is_due(LSN(99))


def test_a_new_daemon_tries_what_it_finds_once() -> None:
    clock = Clock()
    tried = Later(clock)
    tried.found([ONE, TWO], LSN(7))
    assert not tried.is_due(LSN(6))
    tried.begin()
    (again,) = tried.take(LSN(7), lambda *_: True)
    assert again.dirty == {"things": {("1",), ("2",)}}
    tried.commit([failure(*ONE)], LSN(7), LSN(7), Dates())
    assert not tried.is_due(LSN(99))


def test_it_has_the_date_of_the_applications_change_while_both_sides_write() -> None:
    """Without one, it would be taken for what the opposite pipeline wrote: not written, and yet resolved."""
    dates, at = Dates(), datetime(2026, 1, 1, tzinfo=UTC)
    dates.note(*ONE, at)
    tried = Later(Clock())
    tried.found([TWO], LSN(1))
    transaction(tried, ONE, end=5, ahead=9, dates=dates)
    tried.begin()
    (again,) = tried.take(LSN(9), lambda *_: True, dated=True)
    assert again.dirty == {"things": {ONE[1]}}
    assert again.dates.of(*ONE) == at


def test_of_very_many_so_many_are_remembered_and_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "MOST", 5)
    monkeypatch.setattr(later, "AT_ONCE", 2)
    tried = Later(Clock())
    transaction(tried, *(("things", (str(number),)) for number in range(9)), end=5, ahead=9)
    assert [len(transaction(tried, end=9 + number)) for number in range(4)] == [2, 2, 1, 0]
