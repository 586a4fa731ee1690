"""All benchmarks, in the order of the table."""

from typing import Final

from benchmarks.benchmark import Benchmark, Curve
from benchmarks.migrations import KINDS
from benchmarks.works import backfill, fan_in, follow, pauses, pgcopydb_follow

BENCHMARKS: Final[tuple[Benchmark, ...]] = (
    *(backfill.against_statements(kind) for kind in KINDS),
    backfill.PROCESSES,
    backfill.SIZES,
    *(follow.against_builtin(kind) for kind in KINDS),
    pgcopydb_follow.PGCOPYDB,
    follow.LARGE,
    pauses.PAUSES,
    fan_in.FAN_IN,
)
CURVES: Final[tuple[Curve, ...]] = (*backfill.CURVES, *follow.CURVES)
