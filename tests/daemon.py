"""The daemon as a process of its own, as an operator runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg

from replicator.core.lsn import parse_lsn
from replicator.settings import Settings
from tests.waiting import SECONDS, wait_until

ROOT = Path(__file__).parents[1]


class Daemon:
    """One process after another of the same migration, all writing to one log."""

    def __init__(
        self,
        settings: Settings,
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        program: str = "replicator",
    ) -> None:
        self.settings = settings
        self._log = log
        self._others = environment or {}
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The running process."""
        assert self._process is not None, "the daemon is not started"
        return self._process

    @property
    def log(self) -> str:
        """What all of them have said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start a process."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._program, "run"], cwd=ROOT, env=self._environment(), stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL: nothing is finished, nothing is told."""
        self._running()
        self.process.kill()
        assert self.process.wait(SECONDS) == -signal.SIGKILL, self.log
        self._wait_for_the_server()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        self._running()
        self.process.terminate()
        return self.process.wait(SECONDS)

    def end(self) -> None:
        """Leave no process behind."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def until(self, query: str, holds: Callable[[Any], bool] = bool, seconds: float = SECONDS) -> Any:
        """Wait until the first column of a query's first row on the target fulfils a condition; gives it."""
        value = None

        def asked() -> bool:
            nonlocal value
            value = self.ask(query)
            return holds(value)

        wait_until(asked, alive=self._running, said=lambda: f"{query}: {value}\n{self.log}", seconds=seconds)
        return value

    def until_more(self, query: str, least: int) -> None:
        """Wait until a query gives more than this."""
        self.until(query, lambda value: (value or 0) > least)

    def ask(self, query: str) -> Any:
        """The first column of the first row; None while there is no such table."""
        with psycopg.connect(self.settings.target, autocommit=True) as target:
            try:
                row = target.execute(query.encode()).fetchone()
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                return None
        return row[0] if row else None

    def until_phase(self, *phases: str) -> None:
        """Wait until one of these phases is entered."""
        self.until("SELECT phase FROM _replicator.state", lambda phase: phase in phases)

    def drain(self, seconds: float = SECONDS) -> None:
        """Wait until all that is committed by now is applied."""
        with psycopg.connect(self.settings.source) as source:
            # a watched table: the position of what concerns nobody is stored only now and then
            source.execute(
                "INSERT INTO settings VALUES ('drained', '0') "
                "ON CONFLICT (key) DO UPDATE SET value = settings.value || '0'"
            )
            row = source.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        wanted = parse_lsn(row[0] if row else "")
        self.until("SELECT applied_lsn::text FROM _replicator.progress", lambda lsn: parse_lsn(lsn) >= wanted, seconds)

    def _wait_for_the_server(self) -> None:
        """Until the server has noticed too, so that nothing of that process comes any more."""
        query = (
            b"SELECT count(*) FROM pg_stat_activity "
            b"WHERE application_name LIKE 'replicator %' AND datname = current_database()"
        )
        with psycopg.connect(self.settings.target, autocommit=True) as target:
            wait_until(lambda: target.execute(query).fetchone() == (0,))

    def _running(self) -> None:
        code = self.process.poll()
        assert code is None, f"the daemon ended with {code}\n{self.log}"

    def _environment(self) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith(("REPLICATOR_", "PG"))}
        given = {
            f"REPLICATOR_{name.upper()}": str(getattr(value, "get_secret_value", lambda value=value: value)())
            for name, value in self.settings
            if value is not None
        }
        return {**others, **given, **self._others}
