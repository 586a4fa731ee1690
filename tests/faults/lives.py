"""The daemon's lives: it is started again whenever it ends, as systemd does."""

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from replicator.runtime.failpoints import VARIABLE
from replicator.settings import Settings
from tests.daemon import Daemon

SECONDS: Final = 400.0
"""The longest that anything may take; the machine may be busy."""
RESTART_SECONDS: Final = 0.1


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
