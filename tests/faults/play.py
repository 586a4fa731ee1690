"""One run: what happens in it follows from its seed, as far as the machine lets it."""

import contextlib
import random
import re
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict

from tests.faults import disk
from tests.faults.judgement import judge
from tests.faults.kinds import CLOCK
from tests.faults.lives import RunError
from tests.faults.plans import Plan
from tests.faults.roles import roles_on
from tests.faults.stage import END, Stage
from tests.faults.watching import Fault, Phases, Watch
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
    phases: list[tuple[str, str]] = field(default_factory=list)
    """Each kind of fault that has come, and a phase in which it was at work."""
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
        roles = stack.enter_context(roles_on(server))
        old: Database = stack.enter_context(fresh_database(server))
        new = stack.enter_context(fresh_database(server)) if plan.apart else old
        if any(kind.act is disk.fill for kind, _, _ in plan.faults):
            stack.enter_context(disk.small_disk(new))
        proxied, proxy = {}, None
        if plan.proxied:
            port = int(str(conninfo_to_dict(server.admin_dsn)["port"]))
            proxy = stack.enter_context(Proxy(port, plan.seed))
            proxied[port] = proxy.port
        stage = Stage(old, new, roles, folder, chance, proxied, rolling=bool(plan.rolling))
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


def _story(stage: Stage, plan: Plan, result: Result) -> None:
    stage.explained = tuple(text for kind, _, _ in plan.faults for text in kind.exits)
    stage.open()
    faults = [Fault(stage, *each, stage.chance.getrandbits(32)) for each in plan.faults]
    watch, phases = Watch(stage), Phases(stage, faults)
    stage.keeper.start()
    for thread in (*faults, watch, phases):
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
        for thread in (*faults, watch, phases):
            thread.join()
        result.phases += [(each.kind.name, phase) for each in faults for phase in each.phases]
        result.recoveries += [(each.kind.name, each.seconds) for each in faults if each.seconds is not None]
        result.recoveries += watch.recoveries
        result.hits += [name for name, _ in stage.keeper.hits()]
        result.wrong += _endings(stage, plan)


def _migrate(stage: Stage, plan: Plan, faults: list[Fault]) -> None:
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
        how: dict[str, object] = {"strategy": "rename"} if plan.renames else {}
        if plan.rolling:
            _roll(stage)
            how = {"complete": True}
        if not plan.straight_back:
            _move(stage, "cutover", "new", "soak", how)
            stage.mark("soak")
    if plan.back:
        _go_on(stage)
        stage.mark("back")
        _move(stage, "rollback", "old", "follow", {})
    _go_on(stage)


def _roll(stage: Stage) -> None:
    """Let one writer go to the new schema while the other stays."""
    stage.command("cutover", {"wait": True, "timeout": 10, "rolling": True}, lambda: stage.phase == "rolling")
    stage.mark("cutover")
    for writer in stage.writers[1:]:
        writer.hand.prefers_new = True
    stage.until("writers on both sides", lambda: {writer.hand.side for writer in stage.writers} == {"old", "new"})
    stage.mark("rolling")
    _go_on(stage)


def _move(stage: Stage, command: str, side: str, phase: str, how: dict[str, object]) -> None:
    stage.command(command, {"wait": True, "timeout": 10, **how}, lambda: stage.phase == phase)
    stage.mark(command)
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
    texts = ["the failpoint", *stage.explained]
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
