"""Postgres' own logical replication, to a second database on the same server."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from psycopg import sql

from benchmarks.ground import Ground, one, until

BESIDE = """
CREATE INDEX ON public.requests (requester_ip_hash);
CREATE INDEX ON public.requests (status);
CREATE INDEX ON public.requests (created_at);
CREATE INDEX ON public.requests (requester_ip_hash, status);
CREATE INDEX ON public.requests (status, created_at);
ALTER TABLE public.requests ADD COLUMN applied_at timestamptz;
ALTER TABLE public.requests ALTER COLUMN applied_at SET DEFAULT clock_timestamp()
"""
"""As many indexes as the new table has, so that both write as much; and when each row is written."""
WORKER = "SELECT pid FROM pg_stat_subscription WHERE subname = 'builtin' AND pid IS NOT NULL LIMIT 1"


class Subscription:
    """A subscription that is followed; it can stand still for a moment."""

    def __init__(self, ground: Ground, source: str, target: str) -> None:
        self.source = source
        self.target = target
        self._ground = ground

    def start(self, tables: Sequence[str]) -> None:
        """Publish these tables of the schema public, and subscribe without copying."""
        with self._ground.connect(self.source) as connection:
            names = sql.SQL(", ").join(sql.Identifier("public", name) for name in tables)
            connection.execute(sql.SQL("CREATE PUBLICATION builtin FOR TABLE {}").format(names))
            # On one server CREATE SUBSCRIPTION would wait for itself if it made the slot.
            connection.execute(
                "SELECT pg_create_logical_replication_slot('builtin_' || current_database(), 'pgoutput')"
            )
        with self._ground.connect(self.target) as connection:
            subscribe = sql.SQL(
                "CREATE SUBSCRIPTION builtin CONNECTION {} PUBLICATION builtin "
                "WITH (create_slot = false, copy_data = false, slot_name = {})"
            ).format(sql.Literal(self._ground.cluster.dsn(self.source)), sql.Literal(f"builtin_{self.source}"))
            connection.execute(subscribe)
        until(lambda: self._worker() is not None, "the subscription follows")

    def halt(self) -> None:
        """Let the process that applies stand still."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def _send(self, sign: signal.Signals) -> None:
        pid = self._worker()
        if pid is None:
            raise RuntimeError("The subscription's process has ended.")
        os.kill(pid, sign)

    def _worker(self) -> int | None:
        with self._ground.connect(self.target) as connection:
            found = one(connection, WORKER)
        return None if found is None else int(found)


@contextmanager
def subscribed(ground: Ground, rows: int) -> Iterator[Subscription]:
    """Two databases with so many requests, of which one follows the other."""
    with ground.requests(rows) as source, ground.requests(rows) as target:
        with ground.connect(target) as connection:
            connection.execute(BESIDE.encode())
        subscription = Subscription(ground, source, target)
        subscription.start(["requests"])
        yield subscription
