"""The backfill against one `INSERT ... SELECT`, verification against `EXCEPT` both ways, and tables of other sizes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from benchmarks.benchmark import Benchmark, Curve, Point, Round, few_rounds
from benchmarks.follower import Follower, following, memory_of
from benchmarks.ground import HERE, Ground, one
from benchmarks.lines import Goal, Line, Pair
from benchmarks.migrations import Kind, migration_of

MAPPED = f"""
SELECT new.* FROM public.requests AS old CROSS JOIN LATERAL ({(HERE / "sql" / "requests.sql").read_text()}) AS new
"""
TABLES = (HERE / "sql" / "new" / "10_tables.sql").read_text()
DIFFERENT = f"""
WITH mapped AS MATERIALIZED ({MAPPED})
SELECT (SELECT count(*) FROM (SELECT * FROM mapped EXCEPT ALL SELECT * FROM party.requests) AS missing)
    + (SELECT count(*) FROM (SELECT * FROM party.requests EXCEPT ALL SELECT * FROM mapped) AS extra)
"""
TOOK = """
SELECT extract(epoch FROM finished_at - started_at)::float8
FROM _replicator.commands WHERE command = 'verify' ORDER BY id DESC LIMIT 1
"""


class DifferentError(Exception):
    """Replicator and the peer have not made the same rows: their times cannot be compared."""


def copied(ground: Ground, follower: Follower, rows: int) -> float:
    """Rows a second of a daemon's backfill, from the slot to the consistent point."""
    ground.doing(f"replicator copies {rows:,} rows")
    follower.until_phase("follow")
    return rows / follower.seconds_between("backfill", "build")


def verified(ground: Ground, follower: Follower, rows: int) -> float:
    """Rows a second of `replicator verify`."""
    ground.doing(f"replicator compares {rows:,} rows")
    follower.command("verify")
    with ground.connect(follower.database) as connection:
        return rows / float(one(connection, TOOK))


def excepted(ground: Ground, database: str, rows: int) -> float:
    """Rows a second of `EXCEPT` both ways. Raises DifferentError when rows differ."""
    ground.doing(f"EXCEPT compares {rows:,} rows")
    with ground.connect(database) as connection:
        connection.execute("ANALYZE party.requests")
        began = time.monotonic()
        differ = one(connection, DIFFERENT)
        took = time.monotonic() - began
    if differ:
        raise DifferentError(f"{differ} rows are not what the mapping in SQL makes of them.")
    return rows / took


def inserted(ground: Ground, rows: int) -> float:
    """Rows a second of one `INSERT ... SELECT`."""
    with ground.requests(rows) as database, ground.connect(database) as connection:
        ground.doing(f"INSERT ... SELECT copies {rows:,} rows")
        connection.execute(TABLES.encode())
        began = time.monotonic()
        connection.execute(f"INSERT INTO party.requests {MAPPED}".encode())
        return rows / (time.monotonic() - began)


def against_statements(kind: Kind) -> Benchmark:
    """The backfill and verification with transforms of a kind."""
    backfill = Line(
        work=f"backfill, {kind} transforms",
        against="one INSERT ... SELECT",
        unit="rows/s",
        goal=Goal(least_ratio=1.3 if kind == "SQL" else 0.7),
    )
    verify = Line(
        work=f"verify, {kind} transforms",
        against="EXCEPT both ways",
        unit="rows/s",
        goal=Goal(least_ratio=1.0 if kind == "SQL" else 0.6),
    )

    @contextmanager
    def opened(ground: Ground) -> Iterator[Round]:
        migration, rows = migration_of(kind), ground.scale.rows

        def ours() -> tuple[float, float, float]:
            with (
                ground.requests(rows) as database,
                following(ground, database, migration, phase="backfill") as follower,
            ):
                rate = copied(ground, follower, rows)
                compare = partial(verified, ground, follower, rows), partial(excepted, ground, database, rows)
                return rate, *ground.alternate(1, *compare)

        def once(number: int) -> Mapping[str, Pair]:
            (copy, passes, statement), insert = ground.alternate(number, ours, lambda: (inserted(ground, rows),) * 3)
            return {
                backfill.work: Pair(ours=[copy], peer=[insert[0]]),
                verify.work: Pair(ours=[passes], peer=[statement]),
            }

        yield once

    return Benchmark(name=f"backfill {kind.lower()}", lines=(backfill, verify), opened=opened)


def point(ground: Ground, rows: int, migration: str, **settings: object) -> Point:
    """Rate and memory of one backfill."""
    with (
        ground.requests(rows) as database,
        following(ground, database, migration, phase="backfill", **settings) as follower,
        memory_of(follower) as memory,
    ):
        rate = copied(ground, follower, rows)
    return Point(rate=rate, memory=memory.most)


LARGE = Line(
    work="backfill, a large table",
    against="itself, a smaller table",
    unit="rows/s",
    goal=Goal(least_ratio=0.9, most_ratio=1.1),
)
LARGE_MEMORY = Line(
    work="backfill, a large table, memory", against="itself, a smaller table", unit="MB", goal=Goal(most_ratio=1.1)
)
WORKERS = Line(work="backfill, Python, two workers", against="one worker", unit="rows/s", goal=Goal(least_ratio=1.85))


@contextmanager
def _large(ground: Ground) -> Iterator[Round]:
    scale, migration = ground.scale, migration_of("Python")

    def once(number: int) -> Mapping[str, Pair]:
        large, small = ground.alternate(
            number,
            lambda: point(ground, scale.large_rows, migration),
            lambda: point(ground, scale.rows, migration),
        )
        return {
            LARGE.work: Pair(ours=[large.rate], peer=[small.rate]),
            LARGE_MEMORY.work: Pair(ours=[large.memory], peer=[small.memory]),
        }

    yield once


@contextmanager
def _workers(ground: Ground) -> Iterator[Round]:
    rows, migration = ground.scale.rows, migration_of("Python")

    def once(number: int) -> Mapping[str, Pair]:
        two, single = ground.alternate(
            number,
            lambda: point(ground, rows, migration, workers=2),
            lambda: point(ground, rows, migration, workers=1),
        )
        return {WORKERS.work: Pair(ours=[two.rate], peer=[single.rate])}

    yield once


SIZES = Benchmark(
    name="backfill sizes",
    lines=(LARGE, LARGE_MEMORY),
    opened=_large,
    rounds=few_rounds,  # the large one takes long, and is compared with itself
)
PROCESSES = Benchmark(name="backfill workers", lines=(WORKERS,), opened=_workers, rounds=few_rounds)

PYTHON = migration_of("Python")
CURVES = (
    Curve(
        name="backfill over table size",
        over="rows in the table",
        points=lambda scale: scale.sizes,
        measure=lambda ground, size: point(ground, size, PYTHON),
    ),
    Curve(
        name="backfill over chunk size",
        over="rows in a chunk (REPLICATOR_CHUNK_ROWS)",
        points=lambda scale: scale.chunks,
        measure=lambda ground, size: point(ground, ground.scale.rows, PYTHON, chunk_rows=size),
    ),
    Curve(
        name="backfill over workers",
        over="chunks at the same time (REPLICATOR_WORKERS)",
        points=lambda scale: scale.workers,
        measure=lambda ground, size: point(ground, ground.scale.rows, PYTHON, workers=size),
        axis="linear",
    ),
)
