"""What runs beside the story of a run: its faults, and who sees what comes of them."""

import contextlib
import random
import threading
import time
from typing import Final

import psycopg

from tests.faults.kinds import Kind
from tests.faults.stage import END, Stage

MOVES: Final = ("cutover", "rollback")
"""The phases in which a move is under way, and their milestones."""


class Fault(threading.Thread):
    """One fault of a run, in a thread of its own."""

    def __init__(self, stage: Stage, kind: Kind, milestone: str, after: float, seed: int) -> None:
        super().__init__(name=kind.name, daemon=True)
        self.stage, self.kind, self.milestone, self.after = stage, kind, milestone, after
        self.error: Exception | None = None
        self.seconds: float | None = None
        self.at_work = False
        self.phases: set[str] = set()
        """Those in which it was at work."""
        self._chance = random.Random(seed)

    def run(self) -> None:
        try:
            if self.stage.wait_for(self.milestone):
                time.sleep(self.after)
                self.phases.add(self.stage.until("a phase", lambda: self.stage.phase))
                self.at_work = True
                self._act()
                self.at_work = False
                began = time.monotonic()
                self.stage.recover()
                self.seconds = time.monotonic() - began
        except Exception as error:  # noqa: BLE001  raised by whoever joins this
            self.error = error

    def _act(self) -> None:
        """Once more if another fault has taken the server away meanwhile."""
        try:
            self.kind.act(self.stage, self._chance)
        except psycopg.OperationalError:
            if not self.stage.crashed:
                raise
            self.stage.recover()
            self.kind.act(self.stage, self._chance)

    def finish(self) -> None:
        """Wait for its end; raise what it has raised."""
        self.join()
        if self.error is not None:
            raise self.error


class Phases(threading.Thread):
    """Sees which phases are passed while faults are at work, and when a move is under way."""

    def __init__(self, stage: Stage, faults: list[Fault]) -> None:
        super().__init__(name="phases", daemon=True)
        self.stage, self.faults = stage, faults

    def run(self) -> None:
        while not self.stage.reached(END) and not self.stage.over.is_set():
            with contextlib.suppress(psycopg.OperationalError):
                phase = self.stage.phase
                if phase in MOVES:
                    self.stage.mark(phase)
                for fault in self.faults:
                    if fault.at_work:
                        fault.phases.add(phase)
            time.sleep(0.02)


class Watch(threading.Thread):
    """Sees when a failpoint has done its work, and how long it takes until all goes on."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(name="failpoints", daemon=True)
        self.stage = stage
        self.recoveries: list[tuple[str, float]] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            seen = 0
            while not self.stage.reached(END) and not self.stage.over.is_set():
                hits = self.stage.keeper.hits()
                if len(hits) > seen:
                    began = time.monotonic()
                    self.stage.recover()
                    self.recoveries += [(NAMES[action], time.monotonic() - began) for _, action in hits[seen:]]
                    seen = len(hits)
                time.sleep(0.05)
        except Exception as error:  # noqa: BLE001  raised by whoever joins this
            self.error = error


NAMES: Final = {
    "kill": "killed at a failpoint",
    "term": "told to stop at a failpoint",
    "lose": "connection lost at a failpoint",
    "hang": "stands still at a failpoint",
}
