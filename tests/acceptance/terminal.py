"""A user's terminal: commands and the daemon as processes of their own, in a folder with a migration."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
SECONDS = 180


@dataclass(frozen=True)
class Done:
    """What came of a command."""

    code: int
    output: str
    messages: str

    @property
    def said(self) -> str:
        """Everything that it printed."""
        return self.output + self.messages

    @property
    def told(self) -> str:
        """The same, with lines of the log as text."""
        return "\n".join(_told(line) for line in self.said.splitlines())


def _told(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    return "\n".join(map(str, entry.values())) if isinstance(entry, dict) else line


class Daemon:
    """A daemon that runs, or has run."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        """All that it has printed."""
        return self._log.read_text()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a condition; fails when the daemon ends before."""
        wait_until(condition, alive=self.runs, said=lambda: self.log)

    def runs(self) -> None:
        """Fails when the daemon has ended."""
        assert self.process.poll() is None, f"the daemon ended:\n{self.log}"


@dataclass
class Terminal:
    """A folder, and the settings that are in the environment. ``said`` is all that anybody has printed here."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def run(self, *command: str, **settings: str) -> Done:
        """Run ``replicator`` with these arguments."""
        found = subprocess.run(
            [sys.executable, "-m", "replicator", *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=self.folder,
            env=self.environment(settings),
        )
        done = Done(found.returncode, found.stdout, found.stderr)
        self.said.append(done.said)
        assert "--debug" in command or "Traceback" not in done.said, done.said
        return done

    def json(self, *command: str) -> dict[str, Any]:
        """What a command gives with ``--json``."""
        done = self.run(*command, "--json")
        assert done.output, done.messages
        document: dict[str, Any] = json.loads(done.output)
        return document

    @contextlib.contextmanager
    def daemon(self, *options: str, **settings: str) -> Iterator[Daemon]:
        """``replicator run``, killed at the end if it still runs.

        :param options: global ones.
        """
        log = self.folder / "daemon.log"
        with log.open("wb") as written:
            process = subprocess.Popen(
                [sys.executable, "-m", "replicator", *options, "run"],
                stdout=written,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environment(settings),
            )
        with process:
            started = Daemon(process, log)
            try:
                yield started
            finally:
                process.kill()
                process.wait()
                self.said.append(started.log)
        assert options or "Traceback" not in started.log, started.log

    def environment(self, settings: dict[str, str]) -> dict[str, str]:
        """The settings as variables, and nothing of the tests' own environment."""
        given = {"max_write_pause": "30"} | self.settings | settings  # that of a busy machine
        ours = {f"REPLICATOR_{name.upper()}": value for name, value in given.items()}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **ours}
