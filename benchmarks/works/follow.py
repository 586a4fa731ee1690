"""Following against Postgres' own logical replication: backlogs, paced writes, and one large transaction."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

from benchmarks.benchmark import Benchmark, Curve, Point, Round, few_rounds
from benchmarks.builtin import subscribed
from benchmarks.follower import Follower, following, memory_of
from benchmarks.ground import Ground, one, until
from benchmarks.lines import Goal, Line, Pair
from benchmarks.load import insert_paced
from benchmarks.migrations import Kind, migration_of

T = TypeVar("T")
IN_TRANSACTION = 20
SEEN = "SELECT count(*) FROM {table} WHERE id = bench.id(%s)::{type}"
ALL_SEEN = """
SELECT count(*) FROM {table} WHERE id IN (SELECT bench.id(n)::{type} FROM generate_series(%s::bigint, %s) AS n)
"""
TIMES = """
SELECT id::text, extract(epoch FROM {time})::float8 FROM {table}
WHERE id IN (SELECT bench.id(n)::{type} FROM generate_series(%s::bigint, %s) AS n)
"""
COMMITTED = "pg_xact_commit_timestamp(xmin)"
APPLIED = "applied_at"
"""A column of the subscriber's own. There a commit has the time that it had at its origin, so the row must tell: it
was written a moment before it was visible, which is in the peer's favour.
"""
SOURCE = {"table": "public.requests", "type": "text", "time": COMMITTED}
OURS = {"table": "party.requests", "type": "uuid", "time": COMMITTED}
BUILTIN = SOURCE | {"time": APPLIED}
LOOK_SECONDS = 0.002


class Pausing(Protocol):
    """What can stand still while a backlog is written."""

    def halt(self) -> None:
        """Stand still."""

    def go_on(self) -> None:
        """Go on."""


class Side:
    """A source and a target database, and whoever follows. Requests are numbered; ``next`` is the first free one."""

    def __init__(self, ground: Ground, source: str, target: str, names: Mapping[str, str], who: Pausing) -> None:
        self._ground = ground
        self._source, self._target = source, target
        self._names = names
        self._who = who
        with ground.connect(source) as connection:
            self.next = int(one(connection, "SELECT last_value + 1 FROM bench.serial"))

    def backlog(self, changes: int, statement: str, *values: int) -> float:
        """Changes a second: a backlog is written while nobody follows, and its end marked by one more request.

        :param statement: a CALL; of its values the first two are the first and last number if it inserts.
        """
        self._who.halt()
        try:
            with self._ground.connect(self._source) as connection:
                connection.execute("SET synchronous_commit = off")  # it is not the writer that is measured
                connection.execute(statement.encode(), values)
                connection.execute("RESET synchronous_commit")  # only what is flushed is sent
                mark = self.next
                self.next += 1
                connection.execute("CALL bench.insert(%s, %s, 1)", (mark, mark))
        finally:
            began = time.monotonic()
            self._who.go_on()
        with self._ground.connect(self._target) as connection:
            until(lambda: one(connection, self._of(SEEN), mark), "the backlog is applied", pause=LOOK_SECONDS)
        return changes / (time.monotonic() - began)

    def inserts(self, rows: int, in_transaction: int) -> float:
        """Rows a second of a backlog of inserts."""
        self._ground.doing(f"{self._name} follows {rows:,} inserts, {in_transaction:,} in a transaction")
        first = self.next
        self.next += rows
        return self.backlog(rows, "CALL bench.insert(%s, %s, %s)", first, self.next - 1, in_transaction)

    def updates(self, changes: int, hot_rows: int, number: int) -> float:
        """Changes a second of a backlog of updates, each a transaction, that fall on few rows."""
        self._ground.doing(f"{self._name} follows {changes:,} updates of {hot_rows:,} rows")
        return self.backlog(changes, "CALL bench.update(%s, %s, %s)", changes, hot_rows, number)

    def paced(self) -> tuple[list[float], float]:
        """Milliseconds from each commit to that on the target, by the commits' own times; and pgbench's latency."""
        self._ground.doing(f"{self._name} follows {self._ground.scale.rate:,} transactions a second")
        with self._ground.connect(self._source) as source, self._ground.connect(self._target) as target:
            first = self.next
            source.execute("SELECT setval('bench.serial', %s, false)", (first,))
            latency = insert_paced(self._ground, self._source)
            last = int(one(source, "SELECT last_value FROM bench.serial"))
            self.next = last + 1
            until(
                lambda: one(target, self._of(ALL_SEEN), first, last) == last - first + 1,
                "all writes are visible",
                pause=0.2,
            )
            committed = source.execute(TIMES.format(**SOURCE).encode(), (first, last)).fetchall()
            visible: dict[str, float] = dict(target.execute(self._of(TIMES).encode(), (first, last)).fetchall())
            return [(visible[key] - at) * 1e3 for key, at in committed], latency

    @property
    def _name(self) -> str:
        return "replicator" if isinstance(self._who, Follower) else "built-in replication"

    def _of(self, query: str) -> str:
        return query.format(**self._names)


@contextmanager
def ours_on(ground: Ground, migration: str, rows: int) -> Iterator[tuple[Side, Follower]]:
    """A daemon that follows."""
    with ground.requests(rows) as database, following(ground, database, migration) as follower:
        yield Side(ground, database, database, OURS, follower), follower


@contextmanager
def builtin_on(ground: Ground, rows: int) -> Iterator[Side]:
    """A subscription that follows."""
    with subscribed(ground, rows) as subscription:
        yield Side(ground, subscription.source, subscription.target, BUILTIN, subscription)


def against_builtin(kind: Kind) -> Benchmark:
    """Inserts, hot updates and paced writes, with transforms of a kind."""
    builtin = "built-in logical replication"
    inserts = Line(
        work=f"follow inserts, {kind} transforms", against=builtin, unit="changes/s",
        goal=Goal(least_ratio=0.6 if kind == "SQL" else 0.35),
    )  # fmt: skip
    updates = Line(
        work=f"follow hot updates, {kind} transforms", against=builtin, unit="changes/s", goal=Goal(least_ratio=1.0)
    )
    median = Line(work=f"commit to visible, {kind}, median", against=builtin, unit="ms", goal=Goal(most=5))
    tail = Line(work=f"commit to visible, {kind}, p99", against=builtin, unit="ms", goal=Goal(most=50), percentile=99)
    latency = Line(work=f"the application's latency, {kind}", against=builtin, unit="ms", goal=Goal(most_ratio=1.5))

    @contextmanager
    def opened(ground: Ground) -> Iterator[Round]:
        scale, migration = ground.scale, migration_of(kind)
        with (
            ours_on(ground, migration, scale.rows) as (ours, follower),
            builtin_on(ground, scale.rows) as peer,
        ):

            def alone(side: Side, works: Callable[[], T]) -> T:
                """The daemon rests while its peer is measured: it would verify, and take a core."""
                if side is ours:
                    return works()
                follower.halt()
                try:
                    return works()
                finally:
                    follower.go_on()

            def backlogs(side: Side, number: int) -> tuple[float, float]:
                return (
                    side.inserts(scale.changes, IN_TRANSACTION),
                    side.updates(scale.changes, scale.hot_rows, number),
                )

            def paced() -> tuple[list[float], float]:
                with follower.verifying():
                    return ours.paced()

            def once(number: int) -> Mapping[str, Pair]:
                mine, theirs = ground.alternate(
                    number, partial(alone, ours, partial(backlogs, ours, number)),
                    partial(alone, peer, partial(backlogs, peer, number)),
                )  # fmt: skip
                lag, their_lag = ground.alternate(number, paced, partial(alone, peer, peer.paced))
                return {
                    inserts.work: Pair(ours=[mine[0]], peer=[theirs[0]]),
                    updates.work: Pair(ours=[mine[1]], peer=[theirs[1]]),
                    median.work: Pair(ours=lag[0], peer=their_lag[0]),
                    tail.work: Pair(ours=lag[0], peer=their_lag[0]),
                    latency.work: Pair(ours=[lag[1]], peer=[their_lag[1]]),
                }

            yield once

    return Benchmark(name=f"follow {kind.lower()}", lines=(inserts, updates, median, tail, latency), opened=opened)


ONE_LARGE = Line(
    work="one large transaction", against="itself, in transactions of 1,000", unit="rows/s", goal=Goal(least_ratio=0.7)
)
ONE_LARGE_MEMORY = Line(
    work="one large transaction, memory", against="itself, in transactions of 1,000", unit="MB", goal=Goal(most=200)
)


def transaction(ground: Ground, size: int, rows: int) -> Point:
    """Rate and memory of a backlog of inserts with so many rows in a transaction.

    By a daemon of its own: memory that a process has had once, it may keep.
    """
    with (
        ours_on(ground, migration_of("Python"), ground.scale.hot_rows) as (side, follower),
        memory_of(follower) as memory,
    ):
        rate = side.inserts(rows, size)
    return Point(rate=rate, memory=memory.most)


@contextmanager
def _large(ground: Ground) -> Iterator[Round]:
    size = ground.scale.large_transaction

    def once(number: int) -> Mapping[str, Pair]:
        large, parts = ground.alternate(
            number, lambda: transaction(ground, size, size), lambda: transaction(ground, min(1_000, size // 3), size)
        )
        return {
            ONE_LARGE.work: Pair(ours=[large.rate], peer=[parts.rate]),
            ONE_LARGE_MEMORY.work: Pair(ours=[large.memory], peer=[parts.memory]),
        }

    yield once


LARGE = Benchmark(
    name="large transaction",
    lines=(ONE_LARGE, ONE_LARGE_MEMORY),
    opened=_large,
    rounds=few_rounds,
)


CURVES = (
    Curve(
        name="follow over transaction size",
        over="rows in a transaction",
        points=lambda scale: scale.transactions,
        measure=lambda ground, size: transaction(ground, size, max(size, ground.scale.large_transaction // 5)),
    ),
)
