"""What a run plays on: databases with the old schema, writers, and a daemon that is started again whenever it ends."""

import contextlib
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from replicator.demo.application import Ids, found
from replicator.demo.ledger import Ledger
from replicator.demo.seed import seed
from replicator.failpoints import VARIABLE, Failpoint
from replicator.lsn import LSN, parse_lsn
from replicator.settings import Settings
from tests.daemon import Daemon
from tests.engine import make_settings
from tests.faults import party
from tests.faults.writers import TOKENS, Hand, OldParty, Sale, Writer
from tests.fix_postgres import Database
from tests.proxy import Proxy

ROWS: Final = 200
WRITERS: Final = 2
PAUSE: Final = 0.1
"""Between a writer's transactions, on average, in seconds."""
SECONDS: Final = 400.0
"""The longest that anything may take; the machine may be busy."""
RESTART_SECONDS: Final = 0.1
LULL_SECONDS: Final = 20.0
IDLE: Final = str(Failpoint.IDLE_COMMITTED)
PING: Final = "ALTER DATABASE {} SET wal_sender_timeout = '6s'"
"""The server then asks for an answer after half of that, and the daemon stores an idle stream's position for it."""
MILESTONES: Final = ("start", "backfill", "follow", "move", "soak", "back")
END: Final = "end"


RELATIONS: Final = """
SELECT relkind::text, relnamespace::regnamespace::text, relname::text FROM pg_class
WHERE relnamespace IN (to_regnamespace('public'), to_regnamespace('party')) AND relkind IN ('r', 'i', 'S')
"""
Relations = set[tuple[str, str, str]]
"""Of each its kind, its schema and its name."""


class RunError(Exception):
    """The run did not go as it must."""


@dataclass
class Life:
    """One process of the daemon, and how it ended."""

    daemon: Daemon
    armed: str
    code: int | None = None

    @property
    def log(self) -> str:
        return self.daemon.log


@dataclass
class Keeper:
    """Starts the daemon again whenever it ends, as systemd does.

    :param armings: failpoints for the first process, the second, and so on; none for those after them.
    """

    settings: Settings
    folder: Path
    armings: Sequence[str]
    environment: dict[str, str]
    program: str = "replicator"
    lives: list[Life] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Start the first."""
        self._begin()
        self._thread.start()

    @property
    def life(self) -> Life:
        """The process that runs, or ran last."""
        return self.lives[-1]

    def send(self, how: Callable[[Daemon], None]) -> None:
        """Do something to the process that runs now."""
        with contextlib.suppress(ProcessLookupError):
            how(self.life.daemon)

    def stop(self) -> int:
        """End the last by SIGTERM, and start no other; gives its exit code."""
        self._stopping.set()
        self._thread.join(SECONDS)
        if self.life.code is None:
            self.life.daemon.process.terminate()
            self.life.code = self.life.daemon.process.wait(SECONDS)
        return self.life.code

    def end(self) -> None:
        """Leave nothing behind."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(SECONDS)
        for life in self.lives:
            life.daemon.end()

    def _begin(self) -> None:
        number = len(self.lives)
        armed = self.armings[number] if number < len(self.armings) else ""
        environment = self.environment | ({VARIABLE: armed} if armed else {})
        log = self.folder / f"daemon-{number}.log"
        life = Life(Daemon(self.settings, log, environment=environment, program=self.program), armed)
        life.daemon.start()
        self.lives.append(life)

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            code = self.life.daemon.process.poll()
            if code is not None:
                self.life.code = code
                if not self._stopping.wait(RESTART_SECONDS):
                    self._begin()

    def hits(self) -> list[tuple[str, str]]:
        """The failpoints at which something happened, and what."""
        return [
            (str(hit["name"]), str(hit["action"]))
            for life in self.lives
            for line in life.log.splitlines()
            if '"event": "failpoint"' in line and (hit := json.loads(line))
        ]


class Stage:
    """See the module. Everything that asks the servers goes to them directly, past any proxy."""

    def __init__(
        self, old: Database, new: Database, folder: Path, chance: random.Random, proxied: Mapping[int, int]
    ) -> None:
        self.old, self.new, self.chance, self.folder = old, new, chance, folder
        self.dsns = old.dsn, new.dsn
        self.sql = party.make_folder(folder)
        self.migration = party.make(self.sql)
        self.ids = Ids(self.migration)
        self.settings = self._settings({})
        self.daemon_settings = self._settings(proxied)
        compiled = Path(tempfile.gettempdir()) / "replicator-faults-compiled"  # a daemon that starts often starts fast
        self.environment = {
            party.FOLDER: str(self.sql), "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(compiled)
        }  # fmt: skip
        self.keeper = Keeper(self.daemon_settings, folder, (), self.environment)
        self.proxy: Proxy | None = None
        self.renames = False
        """Whether the cutover renames the tables."""
        self.partitioned = False
        """Whether the old table of tickets is partitioned."""
        self.pinged = False
        """Whether the server asks for answers soon."""
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

    def _settings(self, proxied: Mapping[int, int]) -> Settings:
        def through(dsn: str) -> str:
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
        for dsn in dict.fromkeys(self.dsns):
            with psycopg.connect(dsn, autocommit=True) as opened:
                opened.execute(TOKENS)
        with psycopg.connect(self.old.dsn, autocommit=True) as opened:
            seed(opened, party.ROOT / "sql", ROWS)
            opened.execute(party.OLD_TICKETS_IN_PARTITIONS if self.partitioned else party.OLD_TICKETS)
            held = found(opened, OldParty(opened))
        self.seeded = Ledger.of(held, OldParty.schema)
        self.hand = self._hand()
        self.writers = [
            Writer(self._hand(), held, number=n, of=WRITERS, pause=PAUSE, seed=self.chance.getrandbits(32))
            for n in range(WRITERS)
        ]
        for writer in self.writers:
            writer.start()

    def _hand(self) -> Hand:
        return Hand(self.dsns, self.ids, renames=self.renames)

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
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                if value := holds():
                    return value
            self.raise_writers_error()
            if time.monotonic() > deadline:
                raise RunError(f"waited too long: {what}")
            time.sleep(0.05)

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
        return str(self.ask(self.new.dsn, "SELECT phase FROM replicator.state") or "new")

    @property
    def renamed(self) -> bool:
        """Whether the new tables are in the old ones' place."""
        return bool(self.ask(self.old.dsn, "SELECT to_regclass('public.tickets_old') IS NOT NULL"))

    def relations(self) -> Relations:
        """Tables, indexes and sequences of both schemas in one database."""
        return set(self._connection(self.old.dsn).execute(RELATIONS).fetchall())

    def owner(self) -> str:
        """Who owns the data."""
        rows = [self.ask(dsn, "SELECT lpad(epoch::text, 9) || owner FROM replicator.ownership") for dsn in self.dsns]
        return max(filter(None, rows), default="old")[-3:]

    @property
    def reconciled(self) -> bool:
        """Whether nothing is left to do after a rollback."""
        query = "SELECT coalesce(bool_and(reconciled), true) FROM replicator.progress"
        return all(self.ask(dsn, query) for dsn in self.dsns)

    def applied(self) -> LSN:
        """How far the pipeline of the owner's is stored."""
        forward = self.owner() == "old"
        dsn = self.new.dsn if forward else self.old.dsn
        query = "SELECT applied_lsn::text FROM replicator.progress WHERE pipeline = %s"
        return parse_lsn(self.ask(dsn, query, "forward" if forward else "reverse") or "0/0")

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
        deadline = time.monotonic() + LULL_SECONDS
        while time.monotonic() < deadline and not any(name == IDLE for name, _ in self.keeper.hits()):
            time.sleep(0.1)
        for writer in self.writers:
            writer.quiet.clear()

    # ---- commands to the daemon

    def command(self, command: str, arguments: Mapping[str, Any], done: Callable[[], bool]) -> None:
        """Ask the daemon for something until it is done, however often it ends meanwhile."""
        asked: int | None = None

        def settled() -> bool:
            nonlocal asked
            if done():
                return True
            if asked is None:
                asked = self.ask(self.new.dsn, ASK, command, json.dumps(arguments))
            elif self.ask(self.new.dsn, ANSWERED, asked):
                asked = None
            return False

        self.until(f"the {command}", settled)

    def compare_all(self) -> None:
        """Have all rows compared, and mended: what has changed past the log is so, but not at once."""
        asked = self.ask(self.new.dsn, "SELECT coalesce(max(id), 0) FROM replicator.commands")
        self.command("verify", {"repair": True}, lambda: bool(self.ask(self.new.dsn, COMPARED, asked)))


COMPARED: Final = "SELECT count(*) FROM replicator.commands WHERE command = 'verify' AND exit_code = 0 AND id > %s"
ASK: Final = "INSERT INTO replicator.commands (command, arguments) VALUES (%s, %s) RETURNING id"
ANSWERED: Final = "SELECT finished_at IS NOT NULL FROM replicator.commands WHERE id = %s"
