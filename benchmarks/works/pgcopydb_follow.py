"""Following inserts against `pgcopydb follow`."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.benchmark import Benchmark, Round, few_rounds
from benchmarks.ground import Connection, Ground, one, until
from benchmarks.lines import Goal, Line, Pair
from benchmarks.migrations import migration_of
from benchmarks.pgcopydb import Pgcopydb, program
from benchmarks.works.follow import IN_TRANSACTION, ours_on

LINE = Line(
    work="follow inserts, SQL, against pgcopydb", against="pgcopydb follow", unit="changes/s",
    goal=Goal(least_ratio=4),
)  # fmt: skip
SEEN = "SELECT count(*) FROM public.requests WHERE id = bench.id(%s)"
MOST_SECONDS = 900.0


def pgcopydb(ground: Ground, rows: int) -> float:
    """Changes a second of a backlog, from the first transaction that is visible to the last.

    What it has streamed and rewritten before is not counted, nor what it waits for: that is in its favour.
    """
    first = ground.scale.rows + 1
    with ground.requests(ground.scale.rows) as source, ground.requests(ground.scale.rows) as target:
        ground.doing(f"pgcopydb follows {rows:,} inserts")
        peer = Pgcopydb(ground, source, target)
        peer.set_up()
        with ground.connect(source) as connection:
            connection.execute("SET synchronous_commit = off")
            connection.execute("CALL bench.insert(%s, %s, %s)", (first, first + rows - 1, IN_TRANSACTION))
        peer.turn_page()
        with ground.connect(target) as connection:
            try:
                peer.start()
                _wait(connection, peer, first)
                began = time.monotonic()
                _wait(connection, peer, first + rows - 1)
                return max(1, rows - IN_TRANSACTION) / (time.monotonic() - began)
            finally:
                peer.end()


def _wait(connection: Connection, peer: Pgcopydb, number: int) -> None:
    def visible() -> bool:
        peer.check()
        return bool(one(connection, SEEN, number))

    until(visible, f"pgcopydb has applied request {number:,}", seconds=MOST_SECONDS, pause=0.005)


@contextmanager
def _opened(ground: Ground) -> Iterator[Round]:
    scale, migration = ground.scale, migration_of("SQL")
    program()

    def ours() -> float:
        with ours_on(ground, migration, scale.rows) as (side, _):
            return side.inserts(scale.changes, IN_TRANSACTION)

    def once(number: int) -> Mapping[str, Pair]:
        mine, theirs = ground.alternate(number, ours, lambda: pgcopydb(ground, scale.changes))
        return {LINE.work: Pair(ours=[mine], peer=[theirs])}

    yield once


PGCOPYDB = Benchmark(name="follow pgcopydb", lines=(LINE,), opened=_opened, rounds=few_rounds)
