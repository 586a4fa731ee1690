"""What a run plays on: databases with the old schema, writers, and a daemon that is started again whenever it ends."""

import contextlib
import json
import random
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg

from replicator.core.lsn import LSN, parse_lsn
from replicator.demo.application import Ids, found
from replicator.demo.ledger import Ledger
from replicator.demo.seed import seed
from replicator.runtime.failpoints import Failpoint
from replicator.settings import Settings
from tests.engine import make_settings
from tests.faults import party
from tests.faults.applications import OldParty, OldTickets, in_use
from tests.faults.lives import SECONDS, Keeper, RunError
from tests.faults.queries import ANSWERED, ASK, COMPARED, PING, RELATIONS, VERIFIED
from tests.faults.roles import Roles, dsn_of
from tests.faults.writers import TOKENS, Hand, Sale, Writer
from tests.fix_postgres import Database
from tests.proxy import Proxy
from tests.waiting import wait_until

ROWS: Final = 200
WRITERS: Final = 2
PAUSE: Final = 0.1
"""Between a writer's transactions, on average, in seconds."""
LULL_SECONDS: Final = 20.0
IDLE: Final = str(Failpoint.IDLE_COMMITTED)
MILESTONES: Final = ("start", "backfill", "follow", "move", "cutover", "rolling", "soak", "back", "rollback")
"""A move is asked for at ``move`` and ``back``, and under way at ``cutover`` and ``rollback``."""
END: Final = "end"
FORWARD: Final = {"old": "forward", "new": "reverse"}

Relations = set[tuple[str, str, str]]
"""Of each its kind, its schema and its name."""


class Stage:
    """See the module. Everything that asks the servers goes to them directly, past any proxy."""

    def __init__(
        self,
        old: Database,
        new: Database,
        roles: Roles,
        folder: Path,
        chance: random.Random,
        proxied: Mapping[int, int],
        *,
        rolling: bool,
    ) -> None:
        self.old, self.new, self.chance, self.folder, self.roles = old, new, chance, folder, roles
        self.rolling = rolling
        """Whether there is a time when both schemas take writes: with a migration of nothing but the tickets."""
        self.dsns = old.dsn, new.dsn
        self.sql = party.make_folder(folder, rolling=rolling)
        self.migration = party.make(self.sql, rolling=rolling)
        self.ids = Ids(self.migration)
        self.settings = self._settings({}, roles.daemon)
        self.daemon_settings = self._settings(proxied, roles.daemon)
        compiled = Path(tempfile.gettempdir()) / "replicator-faults-compiled"  # a daemon that starts often starts fast
        self.environment = {
            party.FOLDER: str(self.sql), "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(compiled),
            **({party.ROLLING: "1"} if rolling else {}),
        }  # fmt: skip
        self.keeper = Keeper(self.daemon_settings, folder, (), self.environment)
        self.proxy: Proxy | None = None
        self.renames = False
        """Whether the cutover renames the tables."""
        self.partitioned = False
        """Whether the old table of tickets is partitioned."""
        self.pinged = False
        """Whether the server asks for answers soon."""
        self.explained: tuple[str, ...] = ()
        """What a daemon may say at its end, for the faults of this run explain it."""
        self.crashed = False
        """Whether a server was stopped: then it clears some things away only later."""
        self.before: Relations = set()
        """What there was under which names before the first move; only where the cutover renames tables."""
        self.over = threading.Event()
        self._reached = {name: threading.Event() for name in (*MILESTONES, END)}
        self._beats = 0
        self._connections: dict[tuple[int, str], psycopg.Connection[tuple[Any, ...]]] = {}

    @property
    def together(self) -> bool:
        """Whether both schemas are in one database."""
        return self.old.dsn == self.new.dsn

    def _settings(self, proxied: Mapping[int, int], role: str = "") -> Settings:
        def through(dsn: str) -> str:
            dsn = dsn_of(role, dsn) if role else dsn
            for port, other in proxied.items():
                dsn = dsn.replace(f":{port}/", f":{other}/")
            return dsn

        made = make_settings(self.old, self.new, chunk_rows=60)
        others = {
            "source_dsn": through(self.old.dsn), "target_dsn": through(self.new.dsn),
            "migration": "tests.faults.party:migration", "ready_for": 0.2, "max_write_pause": 20.0,
        }  # fmt: skip
        return Settings(_env_file=None, **{**made.model_dump(), **others})

    # ---- the application

    def open(self) -> None:
        """Make the old schema, and let the writers begin."""
        if self.pinged:
            self.ask(self.old.dsn, PING.format(self.old.name))
        for database in {each.name: each for each in (self.old, self.new)}.values():
            self.roles.grant(database)
            with psycopg.connect(dsn_of(self.roles.app, database.dsn), autocommit=True) as opened:
                opened.execute(TOKENS)
        with psycopg.connect(dsn_of(self.roles.app, self.old.dsn), autocommit=True) as opened:
            seed(opened, party.ROOT / "sql", ROWS)
            opened.execute(party.OLD_TICKETS_IN_PARTITIONS if self.partitioned else party.OLD_TICKETS)
            held = found(opened, (OldTickets if self.rolling else OldParty)(opened))
        self.seeded = Ledger.of(held, OldParty.schema)
        self.hand = self._hand()
        self.writers = [
            Writer(self._hand(), held, number=n, of=WRITERS, pause=PAUSE, seed=self.chance.getrandbits(32))
            for n in range(WRITERS)
        ]
        for writer in self.writers:
            writer.start()

    def _hand(self) -> Hand:
        old, new = (dsn_of(self.roles.app, dsn) for dsn in self.dsns)
        look = partial(in_use, self.dsns)
        return Hand((old, new), self.ids, look, renames=self.renames, rolling=self.rolling)

    def stop_writers(self) -> Ledger:
        """Stop the writers; gives what must be there now. Raises what one of them raised."""
        for writer in self.writers:
            writer.stop()
        ledger = Ledger()
        ledger.merge(self.seeded)
        for writer in self.writers:
            writer.join(SECONDS)
            if writer.error is not None:
                raise writer.error
            if writer.is_alive():
                raise RunError(f"the {writer.name} does not come to an end")
            ledger.merge(writer.hand.ledger)
        ledger.merge(self.hand.ledger)
        return ledger

    def close(self) -> None:
        """Leave nothing behind, whatever has happened."""
        self.over.set()
        self.keeper.end()
        for writer in getattr(self, "writers", ()):
            writer.stop()
        for writer in getattr(self, "writers", ()):
            writer.join(SECONDS)
        if hasattr(self, "hand"):
            self.hand.close()
        for connection in self._connections.values():
            connection.close()

    # ---- what goes on

    def mark(self, milestone: str) -> None:
        """Say that the run has come to a milestone."""
        self._reached[milestone].set()

    def reached(self, milestone: str) -> bool:
        """Whether the run has come to a milestone."""
        return self._reached[milestone].is_set()

    def wait_for(self, milestone: str) -> bool:
        """Wait until the run has come there; False when it is over before."""
        while not self._reached[milestone].wait(0.02):
            if self.over.is_set():
                return False
        return True

    def until(self, what: str, holds: Callable[[], Any]) -> Any:
        """Wait until something is true; gives it. What cannot be asked for now is asked again."""

        def asked() -> Any:
            with contextlib.suppress(psycopg.OperationalError):
                return holds()
            return None

        try:
            return wait_until(asked, alive=self.raise_writers_error, seconds=SECONDS, every=0.05)
        except AssertionError as error:
            raise RunError(f"waited too long: {what}") from error

    def raise_writers_error(self) -> None:
        """Raise what a writer has raised."""
        for writer in getattr(self, "writers", ()):
            if writer.error is not None:
                raise writer.error

    def ask(self, dsn: str, query: str, *parameters: Any) -> Any:
        """The first column of the first row; None while there is no such table."""
        try:
            cursor = self._connection(dsn).execute(query.encode(), parameters)
            row = cursor.fetchone() if cursor.description else None
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return None
        return row[0] if row else None

    def _connection(self, dsn: str) -> "psycopg.Connection[tuple[Any, ...]]":
        """This thread's connection to a database."""
        place = threading.get_ident(), dsn
        opened = self._connections.get(place)
        if opened is None or opened.closed:
            opened = self._connections[place] = psycopg.connect(dsn, autocommit=True)
        return opened

    @property
    def phase(self) -> str:
        """The stored phase."""
        return str(self.ask(self.new.dsn, "SELECT phase FROM _replicator.state") or "new")

    @property
    def renamed(self) -> bool:
        """Whether the new tables are in the old ones' place."""
        return bool(self.ask(self.old.dsn, "SELECT to_regclass('public.tickets_old') IS NOT NULL"))

    def relations(self) -> Relations:
        """Tables, indexes and sequences of both schemas in one database."""
        return set(self._connection(self.old.dsn).execute(RELATIONS).fetchall())

    def owner(self) -> str:
        """Who owns the data."""
        rows = [self.ask(dsn, "SELECT lpad(epoch::text, 9) || owner FROM _replicator.ownership") for dsn in self.dsns]
        return max(filter(None, rows), default="old")[-3:]

    @property
    def reconciled(self) -> bool:
        """Whether nothing is left to do after a rollback."""
        query = "SELECT coalesce(bool_and(reconciled), true) FROM _replicator.progress"
        return all(self.ask(dsn, query) for dsn in self.dsns)

    def applied(self) -> LSN:
        """How far the pipeline of the owner's is stored; while both schemas take writes, the one that lags behind."""
        at_work = ["forward", "reverse"] if self.phase == "rolling" else [FORWARD[self.owner()]]
        query = "SELECT applied_lsn::text FROM _replicator.progress WHERE pipeline = %s"
        return min(
            parse_lsn(self.ask(self.new.dsn if each == "forward" else self.old.dsn, query, each) or "0/0")
            for each in at_work
        )

    def beat(self) -> LSN:
        """Write something; gives a position that is past its commit."""
        self._beats += 1
        self.hand.do(Sale([f"beat {self._beats}"]))
        position = parse_lsn(self.ask(self.old.dsn, "SELECT pg_current_wal_insert_lsn()::text"))
        for dsn in dict.fromkeys(self.dsns):  # like the daemon's own heartbeat: so that the position is passed soon
            self.ask(dsn, "SELECT pg_logical_emit_message(true, 'replicator', 'beat')::text")
        return position

    def recover(self) -> None:
        """Wait until something that is written now is applied."""
        position = self.until("a write", self.beat)
        self.until("what was written after the fault to be applied", lambda: self.applied() >= position)

    def lull(self) -> None:
        """Let the writers pause until the daemon has stored the idle stream's position, or for a while."""
        for writer in self.writers:
            writer.quiet.set()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: any(name == IDLE for name, _ in self.keeper.hits()), seconds=LULL_SECONDS)
        for writer in self.writers:
            writer.quiet.clear()

    # ---- commands to the daemon

    def command(self, command: str, arguments: Mapping[str, Any], done: Callable[[], bool]) -> None:
        """Ask the daemon for something until it is done, however often it ends meanwhile; each time with more time."""
        asked: int | None = None
        given = dict(arguments)

        def settled() -> bool:
            nonlocal asked, given
            if done():
                return True
            if asked is None:
                asked = self.ask(self.new.dsn, ASK, command, json.dumps(given))
            elif self.ask(self.new.dsn, ANSWERED, asked):
                asked, given = None, {**given, **{name: given[name] * 2 for name in ("timeout",) if name in given}}
            return False

        self.until(f"the {command}", settled)

    def compare_all(self) -> None:
        """Have all rows compared: what has changed past the log is mended, but not at once.

        A daemon that has seen it must mend it by itself. One that has come after it can only say what diverges.
        """
        repair = len(self.keeper.lives) > 1
        asked = self.ask(self.new.dsn, "SELECT coalesce(max(id), 0) FROM _replicator.commands")
        if not repair:
            self.until("what has changed past the log to be mended", lambda: self.ask(self.new.dsn, VERIFIED))
        self.command("verify", {"repair": repair}, lambda: bool(self.ask(self.new.dsn, COMPARED, asked)))
