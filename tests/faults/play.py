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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from replicator.failpoints import Failpoint
from tests.faults import disk
from tests.faults.judgement import judge
from tests.faults.kinds import CLOCK, KINDS, Kind
from tests.faults.stage import END, RunError, Stage
from tests.fix_postgres import Database, Server, fresh_database
from tests.proxy import Proxy

AT_FAILPOINTS: Final = "at failpoints"
LATEST: Final = {"start": 1.5, "backfill": 0.6, "follow": 0.6, "move": 0.5, "soak": 0.5, "back": 0.5}
"""How long after a milestone a fault comes, at most."""
ACTIONS: Final = {"kill": 5, "kill:delayed": 2, "term": 1, "lose": 2, "hang": 1}
OFTEN: Final = {
    Failpoint.STAGED: 10, Failpoint.CHUNK_PLANNED: 8, Failpoint.CHUNK_READ: 8, Failpoint.CHUNK_WRITTEN: 8,
    Failpoint.CHUNK_COMMITTED: 8, Failpoint.BATCH_WRITTEN: 20, Failpoint.BATCH_COMMITTING: 20,
    Failpoint.BATCH_COMMITTED: 20, Failpoint.CONFIRMED: 20, Failpoint.STATEMENT_COMING: 14,
    Failpoint.STATEMENT_DONE: 14, Failpoint.PHASE_COMING: 4, Failpoint.PHASE_STORED: 4, Failpoint.PUBLISHED: 2,
    Failpoint.SLOT_MADE: 2, Failpoint.PROGRESS_MADE: 2,
}  # fmt: skip
"""How often a run is sure to pass a failpoint, where that is more than once."""
WITH: Final = {
    Failpoint.SETTLING: ("cutover_guarded:1:kill", "cutover_committed:1:kill"),
    Failpoint.TAKING_BACK: ("cutover_locked:1:lose", "cutover_drained:1:lose"),
}
"""What must have happened before a failpoint is passed at all: one of these."""
BACK: Final = (Failpoint.RECONCILED,)
"""What only a rollback passes."""
MOVING: Final = tuple(
    point for point in list(Failpoint)[list(Failpoint).index(Failpoint.OPPOSITE_MADE) :] if point not in WITH
)
"""What the cutover and the rollback both pass."""
REPAIRS: Final = (Failpoint.REDO_WRITTEN, Failpoint.REDO_COMMITTED)
POINTS_A_RUN: Final = 3
ENDED: Final = {"kill": -9, "term": 0}


@dataclass(kw_only=True)
class Plan:
    """What is to happen in a run."""

    seed: int
    faults: list[tuple[Kind, str, float]] = field(default_factory=list)
    """Each with the milestone that it comes after, and how many seconds after that."""
    armings: list[str] = field(default_factory=list)
    moves: bool = True
    back: bool = False
    """Whether there is a rollback after the cutover."""
    apart: bool = False
    lull: bool = False
    """Whether the writers pause for a while, so that the stream is idle."""

    @property
    def proxied(self) -> bool:
        """Whether the daemon talks to the server through a proxy."""
        return any(kind.proxied for kind, _, _ in self.faults)

    @property
    def name(self) -> str:
        """What it is about, in short."""
        return ", ".join([*(kind.name for kind, _, _ in self.faults), *self.armings])

    def __str__(self) -> str:
        told = [f"{kind.name} after {milestone}" for kind, milestone, _ in self.faults]
        told += [f"[{number}] {each}" for number, each in enumerate(self.armings)]
        told.append("two databases" if self.apart else "one database")
        told.append("cutover and rollback" if self.back else "cutover" if self.moves else "no cutover")
        return f"{self.seed}: {'; '.join(told)}"


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


def plan_of(seed: int) -> Plan:
    """Every other seed is for failpoints, the others go through the kinds; some runs have two faults."""
    chance = random.Random(seed)
    moves, back, apart = chance.random() < 0.8, chance.random() < 0.35, chance.random() < 0.35
    if seed % 2 == 0:
        plan = Plan(seed=seed, apart=apart, back=back)
        _arm(plan, _points(seed // 2), chance)
        if chance.random() < 0.2:
            _add(plan, chance.choice([kind for kind in KINDS if kind.apart is None]), chance)
        return plan
    plan = Plan(seed=seed, moves=moves, back=moves and back, apart=apart)
    _add(plan, KINDS[seed // 2 % len(KINDS)], chance)
    if chance.random() < 0.3:
        _add(plan, chance.choice([kind for kind in KINDS if kind.apart is None]), chance)
    return plan


def plan_for(kinds: Sequence[Kind], seed: int) -> Plan:
    """A run with a fault of each of these kinds."""
    chance = random.Random(seed)
    plan = Plan(seed=seed, apart=chance.random() < 0.35)
    for kind in kinds:
        _add(plan, kind, chance)
    return plan


def plan_at(points: list[Failpoint], seed: int) -> Plan:
    """A run that passes armed failpoints, and nothing else."""
    chance = random.Random(seed)
    plan = Plan(seed=seed, apart=chance.random() < 0.35)
    _arm(plan, points, chance)
    return plan


def _points(number: int) -> list[Failpoint]:
    """The failpoints of one run: in the long run each comes equally often, in ever other company."""
    several: list[Failpoint] = []
    place = number * POINTS_A_RUN
    while len(several) < POINTS_A_RUN:
        lap, position = divmod(place, len(Failpoint))
        order = random.Random(lap).sample(list(Failpoint), len(Failpoint))
        if order[position] not in several:
            several.append(order[position])
        place += 1
    return several


def _add(plan: Plan, kind: Kind, chance: random.Random) -> None:
    if kind.apart is not None:
        plan.apart = kind.apart
    plan.moves = plan.moves or kind.moves
    without = () if plan.back else ("back",) if plan.moves else ("move", "soak", "back")
    milestone = chance.choice([each for each in kind.milestones if each not in without])
    plan.faults.append((kind, milestone, chance.uniform(0, LATEST[milestone])))


def _arm(plan: Plan, points: list[Failpoint], chance: random.Random) -> None:
    """Arm the daemon's first life with the first of them that ends it, the second with the next, and so on."""
    if repair := [point for point in points if point in REPAIRS]:
        _add(plan, next(kind for kind in KINDS if kind.name == "row refused, transform mended"), chance)
        plan.armings = [f"{repair[0]}:1:{chance.choice(('kill', 'lose', 'term'))}"] * 3
        return
    plan.back = plan.back or any(point in BACK for point in points)
    plan.lull = Failpoint.IDLE_COMMITTED in points
    lives: list[list[str]] = [[]]
    for point in sorted(points, key=list(Failpoint).index):
        if point in WITH:
            lives[-1].append(chance.choice(WITH[point]))
            if ":kill" in lives[-1][-1]:
                lives.append([])
        often = 2 if plan.back and point in MOVING else OFTEN.get(point, 1)
        passing = 1 if chance.random() < 0.5 else chance.randint(1, often)
        [action] = chance.choices(list(ACTIONS), list(ACTIONS.values()))
        if action == "kill:delayed":
            action = f"kill:{chance.uniform(0.001, 0.1):.3f}"
        elif action == "hang":
            action = f"hang:{chance.uniform(0.2, 1.5):.1f}"
        lives[-1].append(f"{point}:{passing}:{action}")
        if action.startswith(("kill", "term")):
            lives.append([])
    plan.armings = [",".join(dict.fromkeys(life)) for life in lives if life]


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
        stage.mark("move")
        _move(stage, "cutover", "party", lambda: stage.phase == "soak")
        stage.mark("soak")
    if plan.back:
        _go_on(stage)
        stage.mark("back")
        _move(stage, "rollback", "public", lambda: stage.phase == "follow")
    _go_on(stage)


def _move(stage: Stage, command: str, schema: str, done: Callable[[], bool]) -> None:
    stage.command(command, {"wait": True, "timeout": 10}, done)
    stage.until("the writers to go over", lambda: all(writer.hand.schema == schema for writer in stage.writers))


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
    code = stage.keeper.stop()
    if code != 0:
        result.wrong.append(f"the daemon ended with {code}: {_last_words(stage.keeper.life.log)}")
    result.wrong += judge(stage, ledger)


def _endings(stage: Stage, plan: Plan) -> Iterator[str]:
    """The daemon's ends that nothing in the plan explains, and what it must never say."""
    codes = {code for kind, _, _ in plan.faults for code in kind.codes}
    texts = ["the failpoint", *(text for kind, _, _ in plan.faults for text in kind.exits)]
    for number, life in enumerate(stage.keeper.lives):
        armed = {ENDED[word] for word in re.findall(r"kill|term", life.armed)}
        said = _last_words(life.log)
        if "Traceback" in life.log or "unexpected" in said:
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
