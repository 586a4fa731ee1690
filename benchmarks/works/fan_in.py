"""Many changes under few keys of a query, against one re-read for each change."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.benchmark import Benchmark, Round
from benchmarks.follower import Follower, following
from benchmarks.ground import HERE, Ground, one, until
from benchmarks.lines import Goal, Line, Pair

FOLDER = HERE / "fan_in_sql"
QUERY = (FOLDER / "customer_totals.sql").read_text()
CHANGE = "UPDATE public.orders SET total = total + 1"
READ = f"""
INSERT INTO shop.customers SELECT * FROM ({QUERY}) AS one WHERE id = %s
ON CONFLICT (id) DO UPDATE SET name = excluded.name, orders = excluded.orders, total = excluded.total
"""
LINE = Line(work="fan-in", against="one re-read per change", unit="changes/s", goal=Goal(least_ratio=50))


@contextmanager
def _customers(ground: Ground) -> Iterator[str]:
    """A database with the customers and their orders."""
    scale = ground.scale
    with ground.database() as database:
        with ground.connect(database) as connection:
            seed = (FOLDER / "seed.sql").read_text().format(keys=scale.keys, changes=scale.key_changes)
            connection.execute(seed.encode())
            connection.execute("VACUUM ANALYZE")
        yield database


def _followed(ground: Ground, follower: Follower, number: int) -> float:
    """Changes a second of a backlog that changes each order once."""
    changes = ground.scale.key_changes
    ground.doing(f"replicator follows {changes:,} changes under {ground.scale.keys:,} keys")
    mark = -1 - number
    with ground.connect(follower.database) as connection:
        follower.halt()
        try:
            connection.execute(CHANGE.encode())
            connection.execute("INSERT INTO public.customers VALUES (%s, 'the end')", (mark,))
        finally:
            began = time.monotonic()
            follower.go_on()
        seen = "SELECT count(*) FROM shop.customers WHERE id = %s"
        until(lambda: one(connection, seen, mark), "the backlog is applied", pause=0.002)
        return changes / (time.monotonic() - began)


def _read_one_by_one(ground: Ground) -> float:
    """Changes a second, where for each the key's row is read and written in a transaction."""
    scale = ground.scale
    with _customers(ground) as database, ground.connect(database) as connection:
        ground.doing(f"{scale.single_reads:,} changes are read one by one")
        connection.execute((FOLDER / "new" / "10_tables.sql").read_bytes())
        connection.execute(CHANGE.encode())
        began = time.monotonic()
        for change in range(scale.single_reads):
            connection.execute(READ.encode(), (change % scale.keys,))
        return scale.single_reads / (time.monotonic() - began)


@contextmanager
def _opened(ground: Ground) -> Iterator[Round]:
    with (
        _customers(ground) as database,
        following(ground, database, "benchmarks.moving.query:migration") as follower,
    ):

        def peer() -> float:
            follower.halt()
            try:
                return _read_one_by_one(ground)
            finally:
                follower.go_on()

        def once(number: int) -> Mapping[str, Pair]:
            ours, single = ground.alternate(number, lambda: _followed(ground, follower, number), peer)
            return {LINE.work: Pair(ours=[ours], peer=[single])}

        yield once


FAN_IN = Benchmark(name="fan-in", lines=(LINE,), opened=_opened)
