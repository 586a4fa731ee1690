"""One run: what happens in it follows from its seed, as far as the machine lets it."""

import contextlib
import random
import re
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.faults import disk
from tests.faults.judgement import judge
from tests.faults.kinds import CLOCK, Kind
from tests.faults.plans import Plan
from tests.faults.stage import END, RunError, Stage
from tests.fix_postgres import Database, Server, fresh_database
from tests.proxy import Proxy

ENDED: Final = {"kill": -9, "term": 0}


@dataclass(kw_only=True)
class Result:
    """What came of it."""

    plan: Plan
    server: str = ""
    wrong: list[str] = field(default_factory=list)
    recoveries: list[tuple[str, float]] = field(default_factory=list)
    """Each fault that has come, and the seconds from its end until what was written then was applied."""
    hits: list[str] = field(default_factory=list)
    seconds: float = 0.0
    folder: str = ""

    @property
    def survived(self) -> bool:
        """Whether all is as it must be."""
        return not self.wrong


def play(plan: Plan, server: Server) -> Result:
    """Play it on a fresh database; the folder with the logs stays when it is not survived."""
    result = Result(plan=plan, server=server.id)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"replicator-faults-{plan.seed}-"))
    with contextlib.ExitStack() as stack:
        try:
            stage = stack.enter_context(_stage(plan, server, folder))
            _story(stage, plan, result)
        except Exception as error:  # noqa: BLE001  whatever it is, the run was not survived
            trace = "".join(traceback.format_exception(error)[-4:])
            result.wrong.append(str(error) if isinstance(error, RunError) else trace)
    result.seconds = time.monotonic() - began
    if result.survived:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        result.folder = str(folder)
    return result


@contextlib.contextmanager
def _stage(plan: Plan, server: Server, folder: Path) -> Iterator[Stage]:
    chance = random.Random(plan.seed)
    with contextlib.ExitStack() as stack:
        old: Database = stack.enter_context(fresh_database(server))
        new = stack.enter_context(fresh_database(server)) if plan.apart else old
        if any(kind.act is disk.fill for kind, _, _ in plan.faults):
            stack.enter_context(disk.small_disk(new))
        proxied, proxy = {}, None
        if plan.proxied:
            port = int(str(conninfo_to_dict(server.admin_dsn)["port"]))
            proxy = stack.enter_context(Proxy(port, plan.seed))
            proxied[port] = proxy.port
        stage = Stage(old, new, folder, chance, proxied)
        stage.proxy = proxy
        stage.keeper.armings = plan.armings
        stage.pinged = plan.lull
        stage.renames = plan.renames
        stage.partitioned = plan.partitioned
        for kind, _, _ in plan.faults:
            if kind.program != stage.keeper.program:
                stage.keeper.program = kind.program
                stage.environment[CLOCK] = str(folder / "clock")
        stack.callback(stage.close)
        yield stage


class _Fault(threading.Thread):
    """One fault of a run, in a thread of its own."""

    def __init__(self, stage: Stage, kind: Kind, milestone: str, after: float, seed: int) -> None:
        super().__init__(name=kind.name, daemon=True)
        self.stage, self.kind, self.milestone, self.after = stage, kind, milestone, after
        self.error: Exception | None = None
        self.seconds: float | None = None
        self._chance = random.Random(seed)

    def run(self) -> None:
        try:
            if self.stage.wait_for(self.milestone):
                time.sleep(self.after)
                self._act()
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


class _Watch(threading.Thread):
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


def _story(stage: Stage, plan: Plan, result: Result) -> None:
    stage.open()
    faults = [_Fault(stage, *each, stage.chance.getrandbits(32)) for each in plan.faults]
    watch = _Watch(stage)
    stage.keeper.start()
    for thread in (*faults, watch):
        thread.start()
    try:
        _migrate(stage, plan, faults)
        for fault in faults:
            fault.finish()
        stage.mark(END)
        watch.join()
        if watch.error is not None:
            raise watch.error
        _end(stage, result)
    finally:
        stage.over.set()
        for thread in (*faults, watch):
            thread.join()
        result.recoveries += [(each.kind.name, each.seconds) for each in faults if each.seconds is not None]
        result.recoveries += watch.recoveries
        result.hits += [name for name, _ in stage.keeper.hits()]
        result.wrong += _endings(stage, plan)


def _migrate(stage: Stage, plan: Plan, faults: list[_Fault]) -> None:
    """From the daemon's start to where the run is to end, with writers all the way."""
    stage.mark("start")
    stage.until("the backfill to begin", lambda: stage.phase != "new")
    stage.mark("backfill")
    stage.until("the new schema to be complete", lambda: stage.phase not in ("new", "backfill", "build"))
    stage.mark("follow")
    for fault in faults:
        if fault.kind.first:
            fault.finish()
    if plan.lull:
        stage.lull()
    if plan.moves:
        stage.before = stage.until("the names of all", stage.relations) if plan.renames else set()
        stage.mark("move")
        _move(stage, "cutover", "new", lambda: stage.phase == "soak")
        stage.mark("soak")
    if plan.back:
        _go_on(stage)
        stage.mark("back")
        _move(stage, "rollback", "old", lambda: stage.phase == "follow")
    _go_on(stage)


def _move(stage: Stage, command: str, side: str, done: Callable[[], bool]) -> None:
    strategy = {"strategy": "rename"} if stage.renames and command == "cutover" else {}
    stage.command(command, {"wait": True, "timeout": 10, **strategy}, done)
    stage.until("the writers to go over", lambda: all(writer.hand.side == side for writer in stage.writers))


def _go_on(stage: Stage) -> None:
    done = [writer.hand.done for writer in stage.writers]
    stage.until(
        "the writers to go on",
        lambda: all(writer.hand.done > before + 5 for writer, before in zip(stage.writers, done, strict=True)),
    )


def _end(stage: Stage, result: Result) -> None:
    """Stop the writers, drain, stop the daemon, and look at everything."""
    for writer in stage.writers:
        writer.stop()
        writer.join()
    stage.recover()
    ledger = stage.stop_writers()
    stage.until("a phase that lasts", lambda: stage.phase in ("follow", "soak"))
    stage.until("what only the new schema could hold to be set aside", lambda: stage.reconciled)
    if any(kind.past_the_log for kind, _, _ in result.plan.faults):
        stage.compare_all()
    code = stage.keeper.stop()
    armed = {ENDED[word] for word in re.findall(r"kill|term", stage.keeper.life.armed)}
    if code not in {0} | armed:  # a failpoint that takes a moment may come after the last word
        result.wrong.append(f"the daemon ended with {code}: {_last_words(stage.keeper.life.log)}")
    result.wrong += judge(stage, ledger)


def _endings(stage: Stage, plan: Plan) -> Iterator[str]:
    """The daemon's ends that nothing in the plan explains, and what it must never say."""
    codes = {code for kind, _, _ in plan.faults for code in kind.codes}
    texts = ["the failpoint", *(text for kind, _, _ in plan.faults for text in kind.exits)]
    for number, life in enumerate(stage.keeper.lives):
        armed = {ENDED[word] for word in re.findall(r"kill|term", life.armed)}
        said = _last_words(life.log)
        if "Traceback" in life.log or "unexpected " in said:  # a server closes connections unexpectedly
            yield f"life {number} met what it did not expect: {said}"
        last = life is stage.keeper.life
        if life.code is None or last or life.code in codes | armed or any(text in said for text in texts):
            continue
        told = life.armed.count("term") + sum(0 in kind.codes for kind, _, _ in plan.faults)
        # by SIGTERM itself: before it could listen to it, or by a second one, which it no longer listens to
        if life.code == -signal.SIGTERM and ((told and not life.log) or (told > 1 and "stopping" in life.log)):
            continue
        yield f"life {number} ended with {life.code}: {said}"


def _last_words(log: str) -> str:
    lines = log.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error:")]
    return " ".join(lines[errors[-1] :]) if errors else (lines[-1] if lines else "")
