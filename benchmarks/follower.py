"""The daemon as a process of its own: started, stopped for a moment as by a debugger, and its memory watched."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg

from benchmarks.ground import HERE, Ground, one, until
from replicator.demo.processes import Daemon, command, settings_for

PHASE = "SELECT phase FROM _replicator.state"
LOOK_SECONDS = 0.02
MEGABYTE = 2**20
SECONDS_BETWEEN = """
SELECT extract(epoch FROM max(at) FILTER (WHERE details ->> 'phase' = %s)
                        - max(at) FILTER (WHERE details ->> 'phase' = %s))::float8
FROM _replicator.journal WHERE event = 'phase'
"""


class Memory(threading.Thread):
    """The most resident memory, in megabytes, of any of a process and its children, looked at again and again."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.most = 0.0
        self._process = psutil.Process(pid)
        self._ended = threading.Event()

    def run(self) -> None:
        """Look until told to end."""
        looks, family = 0, [self._process]
        while not self._ended.wait(LOOK_SECONDS):
            try:
                if looks % 50 == 0:  # a list of all processes costs more than a look at one
                    family = [self._process, *self._process.children(recursive=True)]
                self.most = max(self.most, *(each.memory_info().rss / MEGABYTE for each in family))
            except psutil.NoSuchProcess:
                looks = -1
                if not self._process.is_running():
                    return
            looks += 1

    def end(self) -> float:
        """End; returns the most."""
        self._ended.set()
        self.join()
        return self.most


class Follower:
    """A daemon that follows a database's old tables into its new ones."""

    def __init__(self, ground: Ground, database: str, migration: str, **settings: object) -> None:
        self.database = database
        self._ground = ground
        self._dsn = ground.cluster.dsn(database)
        given = {f"REPLICATOR_{name.upper()}": str(value) for name, value in settings.items()}
        self._environment = settings_for(self._dsn) | {"REPLICATOR_MIGRATION": migration} | given
        self._daemon: Daemon | None = None

    @property
    def daemon(self) -> Daemon:
        """The process. Raises RuntimeError before the start."""
        if self._daemon is None:
            raise RuntimeError("The daemon is not started.")
        return self._daemon

    def start(self) -> None:
        """Start it. It does not outlive this process."""
        folder = self._ground.folder / self.database
        folder.mkdir(exist_ok=True)
        self._daemon = Daemon(folder, HERE.parent, self._environment)

    def until_phase(self, phase: str) -> None:
        """Wait for a phase. Raises DemoError when the daemon has ended."""
        with self._ground.connect(self.database) as connection:
            until(lambda: self._phase(connection) == phase, f"the phase is {phase}")

    def remove(self) -> None:
        """End it."""
        if self._daemon is not None:
            self.go_on()
            self._daemon.remove()
            self._daemon = None

    def halt(self) -> None:
        """Let it stand still."""
        self.daemon.popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on; harmless when it does."""
        self.daemon.popen.send_signal(signal.SIGCONT)

    def seconds_between(self, first: str, then: str) -> float:
        """How long it took from the beginning of one phase to that of another, by the journal."""
        with self._ground.connect(self.database) as connection:
            return float(one(connection, SECONDS_BETWEEN, then, first))

    def command(self, *arguments: str) -> dict[str, Any]:
        """Run a command of ``replicator`` that answers with JSON. Raises DemoError when it fails."""
        folder = self._ground.folder / self.database
        return command((*arguments, "--json"), folder, HERE.parent, self._environment, meanwhile=lambda: None)

    @contextmanager
    def verifying(self) -> Iterator[None]:
        """Passes of verification, one after the other, for as long as this lasts."""
        ended = threading.Event()

        def verify() -> None:
            while not ended.is_set():
                arguments = [sys.executable, "-m", "replicator", "verify", "--json"]
                subprocess.run(
                    arguments, check=False, capture_output=True, cwd=HERE.parent, env=self._environment, timeout=3_600
                )
                time.sleep(0.05)

        thread = threading.Thread(target=verify, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _phase(self, connection: "psycopg.Connection[tuple[Any, ...]]") -> str | None:
        code = self.daemon.popen.poll()
        if code is not None:
            raise self.daemon.ended(code)
        try:
            return str(one(connection, PHASE))
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return None


@contextmanager
def following(
    ground: Ground, database: str, migration: str, *, phase: str = "follow", **settings: object
) -> Iterator[Follower]:
    """A daemon that has come to a phase; it is ended afterwards."""
    follower = Follower(ground, database, migration, **settings)
    try:
        follower.start()
        follower.until_phase(phase)
        yield follower
    finally:
        follower.remove()


@contextmanager
def memory_of(follower: Follower) -> Iterator[Memory]:
    """Watch its memory; ``most`` is there afterwards."""
    memory = Memory(follower.daemon.popen.pid)
    memory.start()
    try:
        yield memory
    finally:
        memory.end()
