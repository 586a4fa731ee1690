"""How long writers wait in a cutover and in a rollback: `python -m tests.benchmarks.moves --pairs 100`.

The demo's server, application and daemon; pair after pair, with writers at work all the time. In the end every write
that was acknowledged must be on both sides.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import psycopg

from replicator.core.lsn import parse_lsn
from replicator.demo.embedded import Cluster
from replicator.demo.home import find_home, reference
from replicator.demo.presenter import make_show
from replicator.demo.processes import DemoError
from replicator.demo.seed import seed
from replicator.demo.stage import Stage
from replicator.demo.verdict import Figures, judge, seeded

READY = ("--wait", "--timeout", "300", "--json")
ABORTED = "SELECT count(*) FROM _replicator.journal WHERE event = 'attempt'"
KEPT = "SELECT count(*) FROM _replicator.kept"


def measure(pairs: int, rows: int, rate: int) -> dict[str, Any]:
    """Play all of it; gives the figures."""
    home = find_home()
    migration = reference(home)
    pauses: dict[str, list[float]] = {"cutover": [], "rollback": []}
    attempts = 0
    with make_show(quiet=True) as show, ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        figures = Figures(postgres=cluster.version, requests=rows, rate=rate)
        stage = Stage(cluster.dsn(), home, show, patience=300, stack=stack)
        with psycopg.connect(stage.dsn, autocommit=True) as connection:
            seed(connection, home / "sql", rows)
            ledger = seeded(connection)
        writers = stage.start_writers(rate)
        stage.start_daemon()
        stage.wait_for(lambda: stage.document["ready"], "all gates are open")
        for pair in range(1, pairs + 1):
            for name, durations in pauses.items():
                answer = stage.command(name, *READY)
                durations.append(answer["write_pause_seconds"])
                attempts += answer["attempts"]
            print(f"{pair}: {', '.join(f'{name} {durations[-1]:.3f} s' for name, durations in pauses.items())}")  # noqa: T201
        written = stage.stop_writers()
        figures.take(writers.tally)
        ledger.merge(written)
        with psycopg.connect(stage.dsn, autocommit=True) as connection:
            (end,) = connection.execute("SELECT pg_logical_emit_message(true, 'end', '')::text").fetchone() or ("0/0",)
            stage.wait_for(lambda: stage.applied >= parse_lsn(end), "all is applied")
            (aborted,) = connection.execute(ABORTED).fetchone() or (0,)
            (kept,) = connection.execute(KEPT).fetchone() or (0,)
        stage.stop_daemon()
        judge(stage.dsn, migration, ledger, figures)
    return {
        **figures.as_json(),
        "pairs": pairs,
        "write_pause_seconds": {name: spread(durations) for name, durations in pauses.items()},
        "attempts": attempts,
        "aborted_attempts": aborted,
        "rows_kept_aside": kept,
    }


def spread(durations: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    ordered = sorted(durations)
    return {
        "median": round(statistics.median(ordered), 3),
        "p95": round(ordered[math.ceil(0.95 * len(ordered)) - 1], 3),
        "max": round(ordered[-1], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--rate", type=int, default=200, help="transactions a second")
    given = parser.parse_args()
    found = measure(given.pairs, given.rows, given.rate)
    print(json.dumps(found, indent=2))  # noqa: T201
    if not found["ok"]:
        raise DemoError("Something was lost, differs, or has failed.")


if __name__ == "__main__":
    main()
