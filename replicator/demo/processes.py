"""The demo's other processes: the daemon, the writers, and the commands, each as a user would start them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, cast

from replicator.demo.embedded import HOST, free_port
from replicator.demo.guard import Guard
from replicator.demo.ledger import Ledger
from replicator.demo.tally import Tally
from replicator.errors import ReplicatorError
from replicator.observe.status import StatusDocument
from replicator.settings import Settings

STOP_SECONDS = 20.0
LOG_LINES = 15
TICK_SECONDS = 0.1


class DemoError(ReplicatorError):
    """The demo did not go as it must."""

    kind = "demo"


class Process:
    """A process in a session of its own, so that Ctrl-C is ours to handle; what it says goes into a log."""

    talks: ClassVar[bool] = True
    """Whether its standard output is for us; else it goes into the log, too."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, home: Path, environment: dict[str, str]
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self.talks else log,
                stderr=log,
                cwd=home,
                env=environment,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End it at once; harmless when it has ended."""
        self.popen.kill()
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def wait(self, seconds: float = STOP_SECONDS) -> None:
        """Wait for its end. Raises DemoError when it does not come, or is not a good one."""
        try:
            code = self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DemoError(f"The {self.name} did not stop within {seconds:g} s.") from None
        if code != 0:
            raise self.ended(code)

    def ended(self, code: int) -> DemoError:
        """Why it has ended, as far as it said."""
        if code < 0:
            return DemoError(f"The {self.name} got killed by {signal.Signals(-code).name}.")
        words = self.last_words().removeprefix("error: ")
        return DemoError(f"The {self.name} ended with exit code {code}{f': {words}' if words else ''}.")

    def last_words(self) -> str:
        """Its last error, else the last line that it has logged."""
        lines = [_said(line).strip().rstrip(".") for line in self.tail() if line.strip()]
        errors = [line for line in lines if line.startswith("error:")]
        return (errors or lines or [""])[-1]

    def tail(self, lines: int = LOG_LINES) -> list[str]:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]


def _said(line: str) -> str:
    """A line, as an error of a command's where it is the log's line that tells why the daemon ends."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f"error: {json.loads(line)['error']}"
    return line


class Daemon(Process):
    """``replicator run``. It does not outlive this process, in whatever way that ends."""

    talks: ClassVar[bool] = False

    def __init__(self, folder: Path, home: Path, environment: dict[str, str]) -> None:
        self.listen = environment["REPLICATOR_HTTP_LISTEN"]
        self._guard = Guard(folder)
        super().__init__("daemon", ["replicator", "run"], folder, home, environment)
        self._guard.watch(self.popen.pid)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def status(self) -> StatusDocument | None:
        """What it reports; None while it does not answer. Raises DemoError when it has ended."""
        code = self.popen.poll()
        if code is not None:
            raise self.ended(code)
        with contextlib.suppress(OSError), self._opener.open(f"http://{self.listen}/status", timeout=2) as answer:
            return cast("StatusDocument", json.load(answer))
        return None

    def stop(self) -> None:
        """Stop it in good order. Raises DemoError when that fails."""
        self.popen.send_signal(signal.SIGTERM)
        self.wait()

    def remove(self) -> None:
        """End it, and remove the folder."""
        self.kill()
        self._guard.watch(None)
        self._guard.dismiss()


class Writers(Process):
    """``replicator.demo.writers``, which report on their standard output and stop when their input ends."""

    def __init__(self, folder: Path, home: Path, environment: dict[str, str], *, dsn: str, rate: int) -> None:
        self._ledger = folder / "ledger.json"
        command = ["replicator.demo.writers", "--dsn", dsn, "--rate", str(rate), "--ledger", str(self._ledger)]
        super().__init__("writers", command, folder, home, environment)
        self.tally = Tally()
        self._slowest: list[tuple[float, float]] = []
        self._reader = threading.Thread(target=self._read, args=(cast("IO[bytes]", self.popen.stdout),), daemon=True)
        self._reader.start()

    def check(self) -> None:
        """Raise DemoError when they have ended."""
        code = self.popen.poll()
        if code is not None:
            raise self.ended(code)

    def slowest(self, begin: float, end: float) -> float:
        """The slowest transaction, in seconds, that was reported in a stretch of ``time.monotonic``."""
        return max((seconds for at, seconds in self._slowest if begin <= at <= end), default=0.0)

    def stop(self) -> Ledger:
        """Stop them, and read what was acknowledged. Raises DemoError when that fails."""
        cast("IO[bytes]", self.popen.stdin).close()
        self.wait()
        self._reader.join()
        return Ledger.load(self._ledger)

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            self.tally = Tally.of(json.loads(line))
            self._slowest.append((time.monotonic(), self.tally.slowest))


def settings_for(dsn: str) -> dict[str, str]:
    """The environment of daemon and commands: all settings, so that neither a ``.env`` nor a variable leaks in."""
    environment = {
        name: value for name, value in os.environ.items() if not name.upper().startswith(("REPLICATOR_", "PG"))
    }
    for name, field in Settings.model_fields.items():
        if not field.is_required():
            environment[f"REPLICATOR_{name.upper()}"] = "none" if field.default is None else str(field.default)
    ours = {"SOURCE_DSN": dsn, "TARGET_DSN": dsn, "HTTP_LISTEN": f"{HOST}:{free_port()}", "READY_FOR": "2"}
    return environment | {f"REPLICATOR_{name}": value for name, value in ours.items()} | {"PYTHONUNBUFFERED": "1"}


def command(
    arguments: Sequence[str], folder: Path, home: Path, environment: dict[str, str], *, meanwhile: Callable[[], None]
) -> dict[str, Any]:
    """Run a command of ``replicator`` that answers with JSON. Raises DemoError when it fails.

    :param meanwhile: is called again and again until the command has ended.
    """
    process = Process(arguments[0], ["replicator", *arguments], folder, home, environment)
    answer: list[bytes] = []
    reader = threading.Thread(target=lambda: answer.append(cast("IO[bytes]", process.popen.stdout).read()), daemon=True)
    reader.start()
    try:
        while process.popen.poll() is None:
            meanwhile()
            time.sleep(TICK_SECONDS)
        reader.join()
        if process.popen.returncode != 0:
            code, said = process.popen.returncode, process.last_words().removeprefix("error: ")
            answered = " ".join(answer[0].decode(errors="replace").split()).rstrip(".")
            raise DemoError(f"`replicator {' '.join(arguments)}` exited with {code}: {said or answered}.")
        return cast("dict[str, Any]", json.loads(answer[0]))
    finally:
        process.kill()
