"""What the demo plays on: its processes, looked after and shown all the while, and a folder that is gone afterwards."""

import contextlib
import json
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import psycopg

from replicator.core.lsn import LSN, parse_lsn
from replicator.demo.connecting import connect
from replicator.demo.ledger import Ledger
from replicator.demo.presenter import Scene, Show
from replicator.demo.processes import TICK_SECONDS, Daemon, DemoError, Writers, command, settings_for
from replicator.observe.status import StatusDocument
from replicator.terminal.output import messages

RATE_SECONDS = 2.0
PROGRESS = """
SELECT coalesce(progress ->> 'step', progress ->> 'what', 'the daemon has begun')
FROM _replicator.commands WHERE finished_at IS NULL AND started_at IS NOT NULL ORDER BY id DESC LIMIT 1
"""
SILENCE_SECONDS = 20.0


class Stage:
    """Everything that runs, besides the server. ``patience``: how long, in seconds, anything may take."""

    def __init__(self, dsn: str, home: Path, show: Show, *, patience: float, stack: ExitStack) -> None:
        self.dsn = dsn
        self.show = show
        self.daemon: Daemon | None = None
        self.writers: Writers | None = None
        self._home = home
        self._patience = patience
        self._stack = stack
        self._folder = Path(tempfile.mkdtemp(prefix="replicator-demo-"))
        stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._environment = settings_for(dsn)
        self._document: StatusDocument | None = None
        self._heard = time.monotonic()
        self._counts: deque[tuple[float, int]] = deque(maxlen=round(RATE_SECONDS / TICK_SECONDS))

    # ---- who is on it

    def start_writers(self, rate: int) -> Writers:
        """Start them, and wait until they write."""
        writers = Writers(self._folder, self._home, self._environment, dsn=self.dsn, rate=rate)
        self._stack.callback(writers.kill)
        self.writers = writers
        self.wait_for(lambda: bool(writers.tally.transactions), "the writers write")
        return writers

    def stop_writers(self) -> Ledger:
        """Stop them; gives what they saw acknowledged."""
        writers, self.writers = self.writers, None
        return writers.stop() if writers else Ledger()

    def start_daemon(self) -> Daemon:
        """Start it, and wait until it reports."""
        self.daemon = Daemon(self._folder, self._home, self._environment)
        self._stack.callback(self.daemon.remove)
        self._heard = time.monotonic()
        self.wait_for(lambda: self._document is not None, "the daemon reports")
        return self.daemon

    def stop_daemon(self) -> None:
        """Stop it in good order."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            daemon.stop()

    def command(self, *arguments: str) -> dict[str, Any]:
        """Run a command of ``replicator``; gives its answer."""
        with connect(self.dsn) as connection:

            def meanwhile() -> None:
                row = None
                with contextlib.suppress(psycopg.errors.UndefinedTable):  # before the daemon's first start
                    row = connection.execute(PROGRESS).fetchone()
                self.show.doing(f"{arguments[0]}: {row[0] if row else 'asking the daemon'}")
                self.tick()

            return command(arguments, self._folder, self._home, self._environment, meanwhile=meanwhile)

    # ---- what is known

    @property
    def document(self) -> StatusDocument:
        """The daemon's last report."""
        if self._document is None:
            raise DemoError("The daemon has not reported yet.")
        return self._document

    @property
    def applied(self) -> LSN:
        """How far the daemon has come."""
        return parse_lsn(self.document["applied_lsn"] or "0/0")

    def journal(self, phase: str) -> datetime:
        """When a phase began."""
        with connect(self.dsn) as connection:
            row = connection.execute(
                "SELECT at FROM _replicator.journal WHERE event = 'phase' AND details ->> 'phase' = %s", (phase,)
            ).fetchone()
        if row is None:
            raise DemoError(f"The journal does not know the phase {phase}.")
        return cast("datetime", row[0])

    # ---- time

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Look until something is so. Raises DemoError when it takes too long, or when somebody has ended."""
        self.show.doing(f"until {what}")
        deadline = time.monotonic() + self._patience
        while True:
            self.tick()
            if condition():
                return
            if time.monotonic() > deadline:
                raise DemoError(f"Waited {self._patience:.0f} s in vain until {what}. {self._shut()}".rstrip())
            time.sleep(TICK_SECONDS)

    def _shut(self) -> str:
        gates = self._document["gates"] if self._document else []
        return "; ".join(f"{each['name']}: {each['detail']}" for each in gates if not each["ok"])

    def go_on(self, seconds: float) -> None:
        """Let things go on for a while."""
        self.show.doing("the writers write")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tick()
            time.sleep(TICK_SECONDS)

    def tick(self) -> None:
        """Look after everybody, and show how it goes. Raises DemoError when somebody has ended."""
        if self.writers is not None:
            self.writers.check()
        if self.daemon is not None and (report := self.daemon.status()) is not None:
            self._document, self._heard = report, time.monotonic()
        if self.daemon is not None and time.monotonic() - self._heard > SILENCE_SECONDS:
            raise DemoError(f"The daemon has not answered for {SILENCE_SECONDS:g} s.")
        if self.writers is not None:
            self._draw(self.writers)

    def _draw(self, writers: Writers) -> None:
        now = time.monotonic()
        tally = writers.tally
        self._counts.append((now, sum(tally.transactions.values())))
        (began, before), (_, after) = self._counts[0], self._counts[-1]
        rate = (after - before) / (now - began) if now > began else 0.0
        slowest = writers.slowest(now - RATE_SECONDS, now)
        self.show.draw(Scene(document=self._document, tally=tally, rate=rate, slowest=slowest))

    def tell_logs(self) -> None:
        """Print the ends of the logs, for whoever wants to know why something went wrong."""
        for process in (self.daemon, self.writers):
            if process is not None and (lines := process.tail()):
                messages().print(f"the last that the {process.name} said:", style="bold")
                for line in lines:
                    messages().print(f"  {_readable(line)}", markup=False, style="dim")


def _readable(line: str) -> str:
    """A line of the log, without what JSON needs; any other as it is."""
    try:
        said = json.loads(line)
        at, event = said.pop("timestamp")[11:19], said.pop("event")
    except (ValueError, KeyError, AttributeError, TypeError):
        return line
    facts = " ".join(f"{name}={value}" for name, value in said.items() if name not in ("level", "part"))
    return f"{at} {event} {facts}".rstrip()
