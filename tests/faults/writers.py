"""The application under faults: writers that go on through everything, and know what became of each transaction."""

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

import psycopg

from replicator.demo.application import Application, Connection, Found, Ids, MissingRowError
from replicator.demo.ledger import Entry, Ledger
from replicator.demo.workload import Workload
from tests.faults.applications import (
    InUse,
    NewParty,
    NewTickets,
    OldParty,
    OldTickets,
    RenamedNewParty,
)

TOKENS: Final = """
CREATE TABLE harness.tokens (token uuid PRIMARY KEY);
"""
GUARDED: Final = "RP002"
WAITED_OUT: Final = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DiskFull,
)
PATIENCE: Final = 60.0
"""Seconds in which a transaction must get through, whatever happens."""
AGAIN: Final = 0.05
OTHER_SHAPE: Final = (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError, MissingRowError)
"""How a statement fails that was written for the tables which bore these names before."""


class Work(Protocol):
    """A transaction: the demo's, or one of those below."""

    @property
    def rolls_back(self) -> bool:
        """Whether it is rolled back in the end."""

    def run(self, application: Application) -> None:
        """Do it, within the caller's transaction; it may have to be done again."""

    def entries(self, application: Application) -> list[Entry]:
        """What the ledger is to hold then."""


class Sale:
    """Sells tickets: their ids are the server's to choose."""

    rolls_back = False

    def __init__(self, notes: Sequence[str]) -> None:
        self._notes = notes
        self.sold: list[tuple[str, str]] = []

    def run(self, application: Application) -> None:
        cursor = _execute(
            application,
            f"INSERT INTO {application.schema}.tickets (note) SELECT unnest(%s::text[]) RETURNING id::text, note",
            [list(self._notes)],
        )
        self.sold = cursor.fetchall()

    def entries(self, application: Application) -> list[Entry]:
        return [Entry("tickets", key, note, application.schema) for key, note in self.sold]


class StaleReadError(Exception):
    """What was acknowledged is not what is read."""


class Note:
    """Reads a ticket, then writes another note on it.

    :param held: what must be read; None where nobody knows.
    :param where: the schema that it was written to, if what is written there comes to the other one only later.
    """

    rolls_back = False

    def __init__(self, key: str, note: str, held: str | None = None, where: str = "") -> None:
        self._key, self._note, self._held, self._where = key, note, held, where

    def run(self, application: Application) -> None:
        query = f"SELECT note FROM {application.schema}.tickets WHERE id = %s::bigint"
        read = _execute(application, query, [self._key]).fetchone()
        surely = not self._where or self._where == application.schema
        if surely and self._held is not None and read != (self._held,):
            raise StaleReadError(f"The ticket {self._key} reads {read}; acknowledged was {self._held!r}.")
        cursor = _execute(
            application,
            f"UPDATE {application.schema}.tickets SET note = %s WHERE id = %s::bigint",
            [self._note, self._key],
        )
        if cursor.rowcount != 1:
            raise MissingRowError(f"The ticket {self._key} is not there.")

    def entries(self, application: Application) -> list[Entry]:
        return [Entry("tickets", self._key, self._note, application.schema)]


def _execute(application: Application, query: str, parameters: Sequence[Any]) -> "psycopg.Cursor[Any]":
    return cast("psycopg.Cursor[Any]", application._execute(query, parameters))  # type: ignore[attr-defined]


class Hand:
    """One connection of the application's: does a transaction until it is acknowledged, or known to be committed.

    :param dsns: the old schema's database, and the new one's, as the application connects to them.
    :param look: says what is in use now.
    :param renames: the cutover renames the tables: then nobody is refused, but a statement may no longer fit.
    :param rolling: there is a time when both schemas take writes; nothing but tickets is sold.
    """

    def __init__(
        self,
        dsns: tuple[str, str],
        ids: Ids,
        look: Callable[[], InUse],
        *,
        renames: bool = False,
        rolling: bool = False,
    ) -> None:
        self.ledger = Ledger()
        """What is committed, as far as this hand has done it."""
        self.side = ""
        """Whose application the last one was done by, as far as that knew: ``old`` or ``new``."""
        self.done = 0
        self.unknown = 0
        """Replies that were lost; each was looked up."""
        self.rolling = rolling
        self.prefers_new = False
        """While both schemas take writes, go to the new one."""
        self._dsns = dsns
        self._ids = ids
        self._look = look
        self._in_use = InUse()
        self._renames = renames
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def do(self, work: Work) -> list[Entry]:
        """Do it. Raises what cannot be waited out."""
        with self._lock:
            application = self._do(work)
        entries = work.entries(application)
        self.ledger.enter(entries)
        self.done += 1
        return entries

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()

    def _do(self, work: Work) -> Application:
        deadline = time.monotonic() + PATIENCE
        while True:
            token = uuid.uuid4()
            application: Application | None = None
            try:
                application = self._application()
                self._try(work, application, token)
            except (psycopg.Error, MissingRowError) as error:
                if time.monotonic() > deadline:
                    raise
                if application is not None and self._was_committed(error, token, deadline):
                    return application
                time.sleep(AGAIN)
            else:
                self.side = self._side
                return application

    @property
    def _side(self) -> str:
        if self._in_use.owner == "both":
            return "new" if self.prefers_new else "old"
        return self._in_use.owner

    def _try(self, work: Work, application: Application, token: uuid.UUID) -> None:
        assert self._connection is not None
        with self._connection.transaction():
            self._connection.execute("INSERT INTO harness.tokens VALUES (%s)", [token])
            work.run(application)
            if work.rolls_back:
                raise psycopg.Rollback

    def _was_committed(self, error: Exception, token: uuid.UUID, deadline: float) -> bool:
        """Whether a transaction that has failed for us was committed all the same; it never will be after this."""
        assert self._connection is not None
        if not self._connection.closed:
            if isinstance(error, WAITED_OUT) or self._has_moved(error) or self._is_on_its_way(error):
                self._connection.close()  # so that the owner is looked up again
                return False
            raise error
        self.unknown += 1
        dsn = self._dsns[self._side == "new"]
        while True:
            try:
                with psycopg.connect(dsn, autocommit=True) as opened:
                    query = "INSERT INTO harness.tokens VALUES (%s) ON CONFLICT DO NOTHING"
                    return opened.execute(query, [token]).rowcount == 0
            except psycopg.Error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(AGAIN)

    def _application(self) -> Application:
        """The application for the schema that owns the data."""
        if self.prefers_new and self.side == "old" and self._connection is not None:
            self._connection.close()  # nobody refuses what goes on as before
        if self._connection is None or self._connection.closed:
            self._in_use = self._look()
            if self._in_use.owner == "old":
                self.prefers_new = False
            dsn = self._dsns[self._side == "new"]
            self._connection = psycopg.connect(dsn, autocommit=True, application_name="party writer")
        if self._side == "old":
            return (OldTickets if self.rolling else OldParty)(self._connection)
        if self.rolling:
            return NewTickets(self._connection, self._ids)
        kind = RenamedNewParty if self._in_use.renamed else NewParty
        return kind(self._connection, self._ids)

    def _has_moved(self, error: Exception) -> bool:
        """Whether a statement failed because others are to be used now; for any other reason it must not."""
        if not self._renames:
            return isinstance(error, psycopg.Error) and error.sqlstate == GUARDED
        try:
            return isinstance(error, OTHER_SHAPE) and self._look() != self._in_use
        except psycopg.OperationalError:  # the server is away; what is wrong besides will show again
            return True

    def _is_on_its_way(self, error: Exception) -> bool:
        """Whether a row may be missing because it was written to the other schema a moment ago."""
        return self.rolling and isinstance(error, MissingRowError)


class Writer(threading.Thread):
    """Writes until it is told to stop, or until something fails, which is then in ``error``."""

    def __init__(self, hand: Hand, held: Found, *, number: int, of: int, pause: float, seed: int) -> None:
        super().__init__(name=f"writer {number}", daemon=True)
        self.hand = hand
        self.error: Exception | None = None
        self._workload = Workload(held, worker=number, workers=of)
        self._chance = self._workload._chance = random.Random(seed)
        self._number = number
        self._tickets: list[str] = []
        self._notes: dict[str, tuple[str | None, str]] = {}
        """What was written last on each, and to which schema."""
        self._pause = pause
        self._stopping = threading.Event()
        self.quiet = threading.Event()
        """While it is set, nothing is written."""

    def stop(self) -> None:
        """Stop after the transaction that is under way."""
        self._stopping.set()

    def run(self) -> None:
        try:
            while not self._stopping.wait(self._chance.uniform(0, 2 * self._pause)):
                if self.quiet.is_set():
                    continue
                work, entries = self._do()
                if isinstance(work, Sale | Note):
                    self._tickets += [entry.key for entry in entries]
                    self._notes |= {entry.key: (entry.version, entry.schema) for entry in entries}
                else:
                    self._workload.done(entries)
        except Exception as error:  # noqa: BLE001  whoever started this raises it
            self.error = error
        finally:
            self.hand.close()

    def _do(self) -> tuple[Work, list[Entry]]:
        work = self._next()
        return work, self.hand.do(work)

    def _next(self) -> Work:
        chosen = self._chance.random()
        label = f"ticket {self._number}.{self.hand.done}"
        if chosen < 0.1:
            return Sale([label])
        if chosen < (0.6 if self.hand.rolling else 0.15) and self._tickets:
            key = self._chance.choice(self._tickets)
            version, where = self._notes[key]
            return Note(key, label, version, where if self.hand.rolling else "")
        return Sale([label]) if self.hand.rolling else self._workload.next()
