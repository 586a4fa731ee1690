"""What the daemon's looks at the catalogue cost: `python -m benchmarks.by_hand.looks --partitions 5000`.

Or `--tables 1000`. A look that finds the catalogue unchanged, and one that reads all facts. Milliseconds by the clock,
and of processor time in the server's process.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg

from replicator import Migration, Row
from replicator.demo.embedded import Cluster, installed_binaries, server_version
from replicator.postgres.session.connect import Connection
from tests.engine import Engine, make_settings
from tests.fix_postgres import Database, Server

COLUMNS = "id integer, day integer, a text, b text, at timestamptz"
AT_ONCE = 200
"""Tables in one transaction: each holds locks until its end."""


def partitioned(number: int) -> list[str]:
    """One table with so many partitions, each with three indexes."""
    made = [
        f"CREATE TABLE days ({COLUMNS}, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE INDEX ON days (a)",
        "CREATE INDEX ON days (b)",
    ]
    each = "CREATE TABLE days_{0} PARTITION OF days FOR VALUES FROM ({0}) TO ({0} + 1)"
    return made + _in_parts([each.format(place) for place in range(number)])


def many(number: int) -> list[str]:
    """So many tables, each with three indexes."""
    each = (
        "CREATE TABLE t_{0} (" + COLUMNS + ", PRIMARY KEY (id)); CREATE INDEX ON t_{0} (a); CREATE INDEX ON t_{0} (b)"
    )
    return _in_parts([each.format(place) for place in range(number)])


def _in_parts(statements: list[str]) -> list[str]:
    return ["; ".join(statements[start : start + AT_ONCE]) for start in range(0, len(statements), AT_ONCE)]


def same(folder: Path, tables: list[str], key: tuple[str, ...]) -> Migration:
    """Each table as it is."""
    (folder / "new").mkdir()
    ddl = [f"CREATE TABLE IF NOT EXISTS shop.{each} ({COLUMNS}, PRIMARY KEY ({', '.join(key)}))" for each in tables]
    (folder / "new" / "10_tables.sql").write_text("; ".join(["CREATE SCHEMA IF NOT EXISTS shop", *ddl]))
    migration = Migration("looks", old="public", new="shop", sql=folder)

    def as_it_is(given: Row) -> dict[str, Any]:
        return dict(given)

    for each in tables:
        migration.transform(source=each, into=each, name=each, key=lambda given: tuple(given[name] for name in key))(
            as_it_is
        )
    return migration


def processor_seconds(connection: Connection) -> float:
    """Of the server's process behind a connection."""
    return int(Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text().split()[0]) / 1e9


async def measure(look: Callable[[], Awaitable[object]], server: list[Connection], times: int) -> dict[str, float]:
    """Milliseconds of a look: the median by the clock, and the mean of the server's processor time."""
    took = []
    await look()
    before = sum(map(processor_seconds, server))
    for _ in range(times):
        began = time.perf_counter()
        await look()
        took.append(time.perf_counter() - began)
    used = sum(map(processor_seconds, server)) - before
    return {"median": round(statistics.median(took) * 1e3, 1), "server_cpu": round(used / times * 1e3, 1)}


async def play(database: Database, migration: Migration, times: int) -> dict[str, dict[str, float]]:
    """The two looks."""
    made = Engine(make_settings(database), migration)
    await made.set_up()
    try:
        watch = (await made.start()).monitor
        source, target = watch._ground_source, watch._ground_target
        assert source is not None
        assert target is not None

        async def unchanged() -> None:
            reading = await watch.changed()
            if reading is not None:
                watch.settle(reading)

        async def changed() -> None:
            await watch.look_at_definitions()
            await watch.look_at_ground()

        for _ in range(6):  # by then the statement is prepared
            await unchanged()
        return {
            "unchanged": await measure(unchanged, [source, target], times),
            "changed": await measure(changed, [source, target], times),
        }
    finally:
        await made.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shape = parser.add_mutually_exclusive_group(required=True)
    shape.add_argument("--partitions", type=int)
    shape.add_argument("--tables", type=int)
    parser.add_argument("--times", type=int, default=20)
    given = parser.parse_args()
    ddl = partitioned(given.partitions) if given.partitions else many(given.tables)
    names, key = (["days"], ("id", "day")) if given.partitions else ([f"t_{n}" for n in range(given.tables)], ("id",))
    binaries = next(iter(installed_binaries()))
    with Cluster(binaries) as cluster, tempfile.TemporaryDirectory() as folder:
        with psycopg.connect(cluster.dsn(), autocommit=True) as opened:
            for each in ddl:
                opened.execute(each.encode())
            opened.execute("ANALYZE")
        server = Server(server_version(binaries), "pgoutput", cluster.dsn(), cluster)
        database = Database("postgres", cluster.dsn(), "pgoutput", server.version, server)
        found = asyncio.run(play(database, same(Path(folder), names, key), given.times))
    print(json.dumps(found, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
