"""How much work is measured: in full, in less than five minutes, or just to see that all of it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes in rows, changes or pairs, times in seconds."""

    name: str
    rounds: int
    """How often each benchmark is run; replicator and its peer alternate."""
    long_rounds: int
    """Likewise, of those that take long."""
    rows: int
    """In the old table of the backfill, and where a table is followed."""
    large_rows: int
    """In the table that is compared with the one above."""
    changes: int
    """In each backlog that is followed."""
    hot_rows: int
    """That the updates fall on."""
    paced_seconds: int
    rate: int
    """Transactions a second of the paced load."""
    large_transaction: int
    """In rows."""
    pairs: int
    """Of a cutover and a rollback, in a round."""
    keys: int
    """Of the query."""
    key_changes: int
    single_reads: int
    """Changes that the peer of the fan-in reads one by one."""
    sizes: tuple[int, ...]
    """Points of the curves: rows of the table; of a transaction; of a chunk; and chunks at the same time. No points, no
    curve.
    """
    transactions: tuple[int, ...]
    chunks: tuple[int, ...]
    workers: tuple[int, ...]
    fsync: bool = True
    """As a server in use has it; without it nothing that is measured means anything."""


FULL = Scale(
    name="full",
    rounds=3,
    long_rounds=2,
    rows=1_000_000,
    large_rows=10_000_000,
    changes=200_000,
    hot_rows=10_000,
    paced_seconds=60,
    rate=1_000,
    large_transaction=1_000_000,
    pairs=50,
    keys=10_000,
    key_changes=50_000,
    single_reads=10_000,
    sizes=(10_000, 100_000, 1_000_000, 10_000_000),
    transactions=(1, 10, 100, 1_000, 10_000, 100_000, 1_000_000),
    chunks=(500, 1_000, 2_000, 5_000, 10_000, 20_000),
    workers=(1, 2, 4, 8),
)
QUICK = Scale(
    name="quick",
    rounds=2,
    long_rounds=1,
    rows=30_000,
    large_rows=90_000,
    changes=10_000,
    hot_rows=1_000,
    paced_seconds=4,
    rate=1_000,
    large_transaction=20_000,
    pairs=3,
    keys=1_000,
    key_changes=5_000,
    single_reads=1_000,
    sizes=(),
    transactions=(),
    chunks=(),
    workers=(),
)
TINY = Scale(
    name="tiny",
    rounds=1,
    long_rounds=1,
    rows=300,
    large_rows=600,
    changes=60,
    hot_rows=10,
    paced_seconds=1,
    rate=100,
    large_transaction=300,
    pairs=1,
    keys=20,
    key_changes=40,
    single_reads=10,
    sizes=(),
    transactions=(),
    chunks=(),
    workers=(),
    fsync=False,
)
SCALES = {each.name: each for each in (FULL, QUICK, TINY)}
