"""One of the application's connections: transaction after transaction, on the schema that owns the data."""

import threading
import time
from collections.abc import Callable
from typing import Final

import psycopg

from replicator.demo.application import Application, Connection, Ids, MissingRowError
from replicator.demo.ledger import Ledger
from replicator.demo.new_application import NewApplication
from replicator.demo.old_application import OldApplication
from replicator.demo.tally import Tally
from replicator.demo.task import Task
from replicator.demo.workload import Workload

GUARDED: Final = "RP002"
"""What the guard on a table raises while the other schema owns the data."""

CONTENTION: Final = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
)
LOOK_SECONDS: Final = 0.5
PAUSE_SECONDS: Final = 0.02
BEHIND_SECONDS: Final = 1.0
"""A writer that is further behind its rate does not catch up."""


def active_schema(connection: Connection) -> str:
    """The schema that owns the data; before the replicator's first start, the old one."""
    if not connection.execute("SELECT FROM pg_proc WHERE oid = to_regprocedure('replicator.active_schema()')").rowcount:
        return OldApplication.schema
    row = connection.execute("SELECT replicator.active_schema()").fetchone()
    return OldApplication.schema if row is None else str(row[0])


def application(connection: Connection, ids: Ids) -> Application:
    """The application for the schema that owns the data now."""
    if active_schema(connection) == NewApplication.schema:
        return NewApplication(connection, ids)
    return OldApplication(connection)


class Writer(threading.Thread):
    """Writes until stopped, or until an error of its connection, which is then in ``error``."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        ids: Ids,
        workload: Workload,
        tally: Tally,
        *,
        rate: float,
        keeping: bool,
    ) -> None:
        super().__init__()
        self.ledger = Ledger()
        """What was acknowledged, when ``keeping``."""
        self.error: Exception | None = None
        self._connect = connect
        self._ids = ids
        self._workload = workload
        self._tally = tally
        self._interval = 1 / rate
        self._keeping = keeping
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Stop after the transaction that is under way."""
        self._stopping.set()

    def run(self) -> None:
        """Write at the set rate."""
        try:
            with self._connect() as self._connection:
                self._write()
        except Exception as error:  # noqa: BLE001  whoever started this raises it
            self.error = error

    def _write(self) -> None:
        self._look()
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._interval, time.monotonic() - BEHIND_SECONDS)
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._look()
            self._do(self._workload.next())

    def _look(self) -> None:
        self._application = application(self._connection, self._ids)
        self._looked = time.monotonic()

    def _do(self, task: Task) -> None:
        """Run a transaction until it is acknowledged, or has failed for good."""
        began = time.monotonic()
        while True:
            try:
                with self._connection.transaction():
                    task.run(self._application)
                    if task.rolls_back:
                        raise psycopg.Rollback
            except (psycopg.Error, MissingRowError) as error:
                if not self._again(error):
                    return
            else:
                break
        schema = self._application.schema
        self._tally.acknowledged(schema, time.monotonic() - began, rolled_back=task.rolls_back)
        entries = task.entries(self._application)
        self._workload.done(entries)
        if self._keeping:
            self.ledger.enter(entries)

    def _again(self, error: psycopg.Error | MissingRowError) -> bool:
        """Whether the transaction, which was rolled back, is to be run again. Raises when the connection is lost."""
        if self._connection.closed:
            raise error
        if isinstance(error, psycopg.Error) and error.sqlstate == GUARDED:
            before = self._application.schema
            self._look()
            self._tally.again(refused=True)
            return before != self._application.schema or not self._stopping.wait(PAUSE_SECONDS)
        if isinstance(error, CONTENTION):
            self._tally.again(refused=False)
            return not self._stopping.wait(PAUSE_SECONDS)
        self._tally.failed(error)
        return False
