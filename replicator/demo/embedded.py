"""A private Postgres in a temporary folder, for the demo and for tests.

It never touches a server or a data folder of the system, and it does not outlive the process that started it.
"""

import atexit
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from replicator.demo.account import Account, copy_install
from replicator.demo.configuration import HOST, quote_setting, settings_of
from replicator.demo.guard import Guard
from replicator.runtime.binaries import (
    EmbeddedError,
    default_binaries,
    has_wal2json,
    installed_binaries,
    server_version,
    wheel_binaries,
)

__all__ = [
    "HOST",
    "Cluster",
    "EmbeddedError",
    "StopMode",
    "has_wal2json",
    "installed_binaries",
    "server_version",
    "wheel_binaries",
]

StopMode = Literal["fast", "immediate"]

SUPERUSER = "postgres"
START_SECONDS = 60.0
STOP_SECONDS = 30.0

PORTS = range(15000, 30000)  # below those that systems hand out to clients: a restarted server finds its own free
SOCKET_PATH_LIMIT = 100


class Cluster:
    """A Postgres server of our own on 127.0.0.1, with logical replication, removed at the end of this process.

    `settings` are lines for postgresql.conf that win over ours. Without `fsync` it is faster, and only a crash of the
    whole machine could tell the difference. The DSN stays the same over restarts.
    """

    def __init__(
        self, binaries: Path | None = None, *, fsync: bool = False, settings: Mapping[str, str] | None = None
    ) -> None:
        self.binaries = binaries or default_binaries()
        self.programs = self.binaries  # where they are run from: a copy, if the server's account cannot reach them
        self.version = server_version(self.binaries)
        self.has_wal2json = has_wal2json(self.binaries)
        self.fsync = fsync
        self.settings = dict(settings or {})
        self.port = 0
        self._account = Account()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<Cluster Postgres {self.version} port {self.port} {'running' if self.running else 'stopped'}>"

    @property
    def folder(self) -> Path:
        """The temporary folder: `data`, the server's log and its socket."""
        if self._folder is None:
            raise EmbeddedError("This private Postgres has no folder yet, or no longer.", "Start it.")
        return self._folder

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "server.log"

    @property
    def running(self) -> bool:
        """Whether the server's main process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running server's main process."""
        if self._process is None or not self.running:
            raise EmbeddedError("This private Postgres is not running.", "Start it.")
        return self._process.pid

    def dsn(self, database: str = "postgres", *, user: str = SUPERUSER) -> str:
        """A connection string for a database; `user` is the superuser unless told, and nobody needs a password."""
        return f"postgresql://{quote(user, safe='')}@{HOST}:{self.port}/{quote(database, safe='')}"

    def start(self) -> None:
        """Start the server, making its folder first if need be, and wait until it takes connections."""
        if self.running:
            return
        if self._folder is None:
            try:
                self._create()
            except BaseException:
                self.remove()
                raise
        fixed, deadline = self.port != 0, time.monotonic() + START_SECONDS
        complaint = ""
        while True:
            if not fixed:
                self.port = free_port()
            if self._try_start(deadline):
                return
            complaint = self._complaint() or complaint or "it was not ready in time"
            # The port may have been taken a moment ago; a killed server's last processes may not have noticed yet.
            passing = "Address already in use" in complaint or "is still in use" in complaint
            if not passing or time.monotonic() > deadline:
                raise EmbeddedError(
                    f"Postgres {self.version} did not start: {complaint}.",
                    "Correct the settings it was given, or free what it lacks.",
                )
            time.sleep(0.1)

    def stop(self, mode: StopMode = "fast", *, seconds: float = STOP_SECONDS) -> None:
        """Stop the server: `fast` writes a checkpoint, `immediate` is a crash. What is fast may wait for a client that
        follows the log, so after `seconds` it becomes immediate.
        """
        process = self._process
        if process is None:
            return
        for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)[0 if mode == "fast" else 1 :]:
            process.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                break
        self._process = None
        self._watched(None)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again, on the same port."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL the server's main process, as the kernel does when memory runs out."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._watched(None)

    def remove(self) -> None:
        """Stop the server and remove its folder. Harmless when done twice."""
        if os.getpid() != self._owner:  # a forked child inherits the object, not the server
            return
        atexit.unregister(self.remove)
        self.stop("immediate")
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    def _create(self) -> None:
        self._account = Account.find()
        self._folder = self._account.temporary_folder("replicator-postgres-")
        self._guard = Guard(self._folder)
        atexit.register(self.remove)
        self.programs = self.binaries
        if not self._account.reaches([self.programs / "initdb", "--version"]):
            self.programs = copy_install(self.binaries, self._folder / "install", self._account)
        self._initdb()
        with (self._folder / "data" / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {quote_setting(value)}\n" for name, value in self._all_settings().items())

    def _initdb(self) -> None:
        command: list[str | Path] = [
            self.programs / "initdb",
            "-D",
            "data",
            "-U",
            SUPERUSER,
            "--auth=trust",
            "--encoding=UTF8",
        ]
        command += ["--locale=C", "--no-instructions"]
        if not self.fsync:
            command.append("--no-sync")
        with self._spawn(command, subprocess.PIPE) as process:
            output, _ = process.communicate()
        self._watched(None)
        if process.returncode != 0:
            raise EmbeddedError(
                f"Postgres {self.version} could not make a data folder: {reason_in(output.decode(errors='replace'))}.",
                "Free space in the folder for temporary files, or set TMPDIR to another.",
            )

    def _all_settings(self) -> dict[str, str]:
        """Settings for postgresql.conf: ours, and on top those that were given."""
        with_socket = len(str(self.folder)) < SOCKET_PATH_LIMIT
        ours = settings_of(self.binaries, self.folder if with_socket else None, fsync=self.fsync)
        return ours | self.settings

    def _try_start(self, deadline: float) -> bool:
        """Start the server, with a new log: whether it got ready."""
        command: list[str | Path] = [self.programs / "postgres", "-D", "data", "-p", str(self.port)]
        with self.log.open("wb") as log:
            self._process = self._spawn(command, log.fileno())
        while self._process.poll() is None:
            if self._is_ready(self._process.pid):
                return True
            if time.monotonic() > deadline:
                self.stop("immediate")
                return False
            time.sleep(0.02)
        self._process = None
        self._watched(None)
        return False

    def _complaint(self) -> str:
        return reason_in(self.log.read_text(errors="replace"))

    def _is_ready(self, pid: int) -> bool:
        """Whether postmaster.pid says so: its first line is the process id, its eighth the state."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"
        return False

    def _spawn(self, command: Sequence[str | Path], output: int) -> subprocess.Popen[bytes]:
        """Run a command as the server's account, in a session of its own so that Ctrl-C is ours to handle."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env={**environment, "LC_ALL": "C"},
            start_new_session=True,
            **self._account.options(),
        )
        self._watched(process.pid)
        return process

    def _watched(self, pid: int | None) -> None:
        if self._guard is not None:
            self._guard.watch(pid)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise EmbeddedError(f"No port of {HOST} from {PORTS.start} to {PORTS.stop} is free.", "Stop what uses them.")


def reason_in(output: str) -> str:
    """Why a server program failed: of what it printed, the first line about the port or a setting, else the last fatal
    one, else nothing.
    """
    lines = [re.sub(r"^[-0-9]+ [:.0-9]+ \w+ \[\d+\] ", "", line).strip().rstrip(".") for line in output.splitlines()]
    first = [line for line in lines if re.search(r"could not bind|invalid value|unrecognized|syntax error", line)]
    fatal = [line for line in lines if re.search(r"FATAL:|PANIC:|error:|could not", line)]
    return first[0] if first else fatal[-1] if fatal else ""
