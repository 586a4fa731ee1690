"""Which transactions a snapshot sees, across the turn of the 32-bit ids."""

import pytest

from replicator.core.lag import LagMeter
from replicator.core.lsn import LSN, format_lsn, parse_lsn
from replicator.postgres.wire.snapshots import Snapshot, Visibility

TURN = 1 << 32


@pytest.mark.parametrize(
    ("snapshot", "xid", "seen"),
    [
        ("100:110:100,105", 99, True),
        ("100:110:100,105", 100, False),
        ("100:110:100,105", 101, True),
        ("100:110:100,105", 105, False),
        ("100:110:100,105", 110, False),
        (f"{TURN + 5}:{TURN + 10}:", 4, True),
        (f"{TURN + 5}:{TURN + 10}:", TURN - 1, True),
        (f"{TURN - 5}:{TURN - 2}:", 3, False),
        (f"{3 * TURN + 5}:{3 * TURN + 7}:{3 * TURN + 5}", 5, False),
    ],
)
def test_sees(snapshot: str, xid: int, seen: bool) -> None:
    assert Snapshot.parse(snapshot).sees(xid) is seen


def test_only_a_snapshot_that_sees_all_that_was_delivered_will_do() -> None:
    visibility = Visibility()
    assert visibility.admits(Snapshot.parse("100:100:"))
    visibility.delivered(98)
    visibility.delivered(102)
    assert not visibility.admits(Snapshot.parse("100:100:"))
    assert len(visibility) == 1
    assert visibility.admits(Snapshot.parse("103:103:"))
    assert len(visibility) == 0


def test_positions() -> None:
    assert parse_lsn("16/B374D848") == 0x16B374D848
    assert format_lsn(0x16B374D848) == "16/B374D848"
    with pytest.raises(ValueError, match="not a WAL position"):
        parse_lsn("16B374D848")


def test_lag_is_as_old_as_the_oldest_position_that_is_not_applied() -> None:
    now = 0.0
    meter = LagMeter(lambda: now)
    meter.observe(LSN(100), LSN(100), 2.0)
    assert (meter.bytes, meter.seconds, meter.low_for) == (0, 0.0, 0.0)
    now = 1.0
    meter.observe(LSN(200), LSN(100), 2.0)
    now = 5.0
    meter.observe(LSN(300), LSN(100), 2.0)
    assert (meter.bytes, meter.seconds, meter.low_for) == (200, 4.0, 0.0)
    meter.observe(LSN(300), LSN(250), 2.0)
    now = 8.0
    assert (meter.bytes, meter.seconds, meter.low_for) == (50, 0.0, 3.0)
