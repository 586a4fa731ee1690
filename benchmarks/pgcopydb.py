"""`pgcopydb follow`, to a second database on the same server."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from benchmarks.ground import Ground, Missing

SECONDS = 60.0


def program() -> str:
    """The installed program. Raises Missing."""
    found = shutil.which("pgcopydb")
    if found is None:
        raise Missing("pgcopydb is not installed (Debian: apt-get install pgcopydb)")
    return found


class Pgcopydb:
    """A slot and, once it is started, a process that follows."""

    def __init__(self, ground: Ground, source: str, target: str) -> None:
        if not ground.cluster.has_wal2json:
            raise Missing("the server has no wal2json, which pgcopydb follows by")
        folder = ground.folder / f"pgcopydb-{source}"
        self._ground = ground
        self._source = source
        self._log = Path(f"{folder}.log")
        self._process: subprocess.Popen[bytes] | None = None
        ends = ["--source", ground.cluster.dsn(source), "--target", ground.cluster.dsn(target)]
        self._options = [*ends, "--dir", str(folder), "--not-consistent", "--slot-name", f"pgcopydb_{source}"]
        # Without these it takes what the environment says of other servers; and its own folder is to be empty.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}

    def set_up(self) -> None:
        """Make the slot, and allow that what is streamed is applied at once."""
        command = [program(), "stream", "setup", *self._options]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS, env=self._environment)
        with self._ground.connect(self._source) as connection:
            connection.execute("UPDATE pgcopydb.sentinel SET apply = true")

    def start(self) -> None:
        """Follow."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program(), "follow", "--resume", *self._options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, start_new_session=True,
            )  # fmt: skip

    def turn_page(self) -> None:
        """Begin another segment of the log: what is in one is applied only when the next one has begun."""
        with self._ground.connect(self._source) as connection, contextlib.suppress(psycopg.Error):
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("SELECT pg_logical_emit_message(true, 'bench', '')")

    def check(self) -> None:
        """Raise Missing when it has met an error: its processes do not always end then."""
        errors = [line for line in self._log.read_text(errors="replace").splitlines() if " ERROR " in line]
        if errors:
            raise Missing(f"pgcopydb failed: {errors[0].partition(' ERROR ')[2].strip()}")

    def end(self) -> None:
        """End it, with its children."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
