"""Plays a random history of scenes with a whole daemon, there and back, and tells what is wrong at its end."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import psycopg
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from psycopg import AsyncConnection

from replicator import Migration
from replicator.apply.applier import Applier
from replicator.apply.work import Work
from replicator.core.lsn import DurableLSN, parse_lsn
from replicator.errors import NotReadyError, ReplicatorError
from replicator.pipeline.pipeline import Pipeline
from replicator.preflight import preflight
from replicator.settings import Settings
from replicator.switchover.phases import CUTOVER, ROLLBACK, Phase
from tests.engine import make_settings
from tests.fix_postgres import Database
from tests.leftovers import patched
from tests.scene_catalogue import ALL_SCENES
from tests.scenes import SCHEMAS, Scene, Side, on_side
from tests.sessions import Running
from tests.waiting import until

Finding = tuple[str, ...]
Transaction = Sequence[str]
"""What it does; a part that fails is rolled back to a savepoint, and the rest goes on."""

ADMISSIBLE: Final = (
    psycopg.errors.IntegrityError,
    psycopg.errors.FeatureNotSupported,  # TRUNCATE of a table that others refer to
    psycopg.errors.ObjectInUse,  # TRUNCATE with constraints that wait
    psycopg.errors.TriggeredDataChangeViolation,  # a row that a cascade has changed meanwhile
    psycopg.errors.DataError,
)
"""What the constraints of a scene may say of a part."""

LATER: Final = 20.0
"""Seconds in which a row is tried again that clashed with others that were read before the stream had come to them."""

ATTEMPTS: Final = 5
"""How often a move is asked for: a TRUNCATE has all rows compared again, which may be noticed only under the lock."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Transactions one after the other; ``together``: nothing is applied until all of them are there."""

    transactions: Sequence[Transaction]
    together: bool


@dataclass(frozen=True, kw_only=True)
class SceneHistory:
    """What is there before; what happens, in turn on the old side and the new, with a move of ownership in between."""

    scenes: Sequence[Scene]
    before: Transaction
    turns: Sequence[Sequence[Group]]
    batch_rows: int
    chunk_rows: int


# ---- strategies


@st.composite
def histories(draw: st.DrawFn, names: Sequence[str]) -> SceneHistory:
    """Of these scenes, all in one migration."""
    scenes = [draw(ALL_SCENES[name]) for name in names]

    def transactions(side: Side) -> st.SearchStrategy[list[str]]:
        filled = st.sampled_from([each.filled[side] for each in scenes])
        work = st.one_of([each.work[side] for each in scenes])
        return st.lists(st.one_of(filled, work, work, work, work, work), min_size=1, max_size=7)

    def groups(side: Side) -> st.SearchStrategy[list[Group]]:
        several = st.lists(transactions(side), min_size=1, max_size=3)
        return st.lists(st.builds(Group, transactions=several, together=st.booleans()), min_size=2, max_size=5)

    return SceneHistory(
        scenes=scenes,
        before=[each.filled["old"] for each in scenes]
        + [part for each in draw(st.lists(transactions("old"), max_size=4)) for part in each],
        turns=[draw(groups("new" if number % 2 else "old")) for number in range(draw(st.integers(2, 3)))],
        batch_rows=draw(st.sampled_from([3, 10, 30, 100, 100])),
        chunk_rows=draw(st.sampled_from([20, 100, 500])),
    )


TOGETHER: Final = (1, 2, 3, 4)
"""So many scenes are in one migration, in turn: in four histories each scene comes once."""


def history(number: int) -> SceneHistory:
    """One of them, always the same by its number; and none is like the one before, as Hypothesis's own mostly is."""
    turn, place = divmod(number, len(TOGETHER))
    names = random.Random(turn).sample(list(ALL_SCENES), len(ALL_SCENES))
    start = sum(TOGETHER[:place])
    found: list[SceneHistory] = []

    @seed(number)
    @settings(max_examples=2, database=None, phases=[Stage.generate], suppress_health_check=list(HealthCheck))
    @given(histories(names[start : start + TOGETHER[place]]))
    def draw(drawn: SceneHistory) -> None:
        found.append(drawn)

    draw()
    return found[-1]  # the first is the smallest there is


# ---- playing


def migration_of(scenes: Sequence[Scene], folder: Path) -> Migration:
    """All of them in one migration."""
    new = folder / "new"
    new.mkdir(parents=True)
    tables = "CREATE SCHEMA IF NOT EXISTS shop;" + "".join(on_side(each.new, "new") for each in scenes)
    (new / "10_tables.sql").write_text(tables)
    (new / "30_constraints.sql").write_text("".join(on_side(each.constraints, "new") for each in scenes))
    migration = Migration("scenes", old=SCHEMAS["old"], new=SCHEMAS["new"], sql=folder)
    for each in scenes:
        each.declare(migration)
    return migration


class Daemon:
    """One session after the other, as the daemon has them: an error that may pass begins the next one."""

    def __init__(self, settings: Settings, migration: Migration) -> None:
        self._settings = settings
        self._migration = migration
        self._running = Running(settings, migration)

    @property
    def pipeline(self) -> Pipeline:
        """The active one."""
        assert self._running.active is not None
        return self._running.active

    @property
    def phase(self) -> Phase:
        return self._running.session.phase.now

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; raises what ends the daemon."""
        await until(lambda: not self._restarted() and self._running.active is not None and condition())

    async def drain(self) -> None:
        """Wait until all that is committed by now is applied."""
        while True:
            await self.until(lambda: True)
            pipeline, marker = self.pipeline, f"drained {uuid4()}"
            reached = asyncio.create_task(_drained(pipeline, marker))
            await self.until(lambda reached=reached, pipeline=pipeline: reached.done() or self._other(pipeline))  # type: ignore[misc]
            reached.cancel()
            (ended,) = await asyncio.gather(reached, return_exceptions=True)
            if ended is None:
                return
            if not self._other(pipeline) and not getattr(ended, "transient", False):
                reached.result()

    async def compared(self) -> None:
        """Wait until a full pass was clean, and what has changed since has been compared."""
        await self.until(lambda: self.phase in {Phase.FOLLOW, Phase.SOAK} and self.pipeline.verifier.clean)

    async def move(self) -> None:
        """Cutover, or rollback."""
        move = CUTOVER if self.phase == Phase.FOLLOW else ROLLBACK
        for attempt in range(1, ATTEMPTS + 1):
            await self.compared()
            if self.phase == move.after:
                return
            try:
                await self._running.session.switchovers.run(move, self._running.report)
            except ReplicatorError as error:
                if attempt == ATTEMPTS or not (error.transient or isinstance(error, NotReadyError)):
                    raise

    async def stop(self) -> None:
        """End it."""
        self._running.stop.set()
        await asyncio.gather(self._running.task, return_exceptions=True)

    def _other(self, pipeline: Pipeline) -> bool:
        return self._running.active is not pipeline

    def _restarted(self) -> bool:
        if not self._running.task.done():
            return False
        error = self._running.task.exception()
        if not (isinstance(error, ReplicatorError) and error.transient):
            self._running.task.result()
        self._running = Running(self._settings, self._migration)
        return True


async def _drained(pipeline: Pipeline, marker: str) -> None:
    await pipeline.nudge(marker)
    await pipeline.wait_message(marker)


class ScenePlayer:
    """Plays one history in a fresh database."""

    def __init__(self, database: Database, history: SceneHistory, folder: Path) -> None:
        self._history = history
        self._settings = make_settings(database, batch_rows=history.batch_rows, chunk_rows=history.chunk_rows)
        self._folder = folder
        self._side: Side = "old"
        self._kept: dict[str, dict[int, str]] = {}
        """By scene, the values that no transform gives, of rows that have stayed since the cutover."""
        self._refused: list[Finding] = []

    async def play(self) -> list[Finding]:
        """What is wrong: with the turn, and the group of it after which it was so."""
        commit = Applier._commit
        rereads = {name for each in self._history.scenes for name in each.rereads}

        async def noted(applier: Applier, work: Work) -> DurableLSN | None:
            durable = await commit(applier, work)
            self._refused += [
                ("quarantined", each.transform, str(each.source_key), each.error)
                for each in work.outcome.failures
                if each.transform not in rereads
            ]
            return durable

        async with await AsyncConnection.connect(self._settings.source, autocommit=True) as self._application:
            for scene in self._history.scenes:
                await self._application.execute(on_side(scene.old, "old").encode())
            await self._transact(self._history.before)
            migration = migration_of(self._history.scenes, self._folder)
            wrong = [each for each in await preflight(self._settings, migration) if each.outcome == "fail"]
            if wrong:
                return [("check", each.check, each.detail) for each in wrong]
            self._daemon = Daemon(self._settings, migration)
            try:
                with patched(Applier, "_commit", noted):
                    return await self._take_turns()
            except ReplicatorError as error:
                return [("the daemon ends", str(error))]
            finally:
                await self._daemon.stop()

    async def _take_turns(self) -> list[Finding]:
        await self._daemon.until(lambda: True)
        for number, groups in enumerate(self._history.turns, 1):
            if number > 1:
                await self._move()
            for place, group in enumerate(groups, 1):
                await self._work(group)
                if number == 1 and self._daemon.phase != Phase.FOLLOW:
                    continue  # rows are still copied
                found = await self._wrong()
                if found:
                    return [(f"turn {number}, group {place}", *each) for each in found]
            try:
                await self._daemon.compared()
            except TimeoutError:
                verifier = self._daemon.pipeline.verifier
                return [(f"turn {number}", "never clean", verifier.standing.text, str(verifier.divergences))]
            found = await self._wrong()
            if found:
                return [(f"turn {number}", *each) for each in found]
        return []

    async def _move(self) -> None:
        if self._side == "old":
            await self._daemon.compared()
            self._kept = {each.name: await self._values(each) for each in self._history.scenes}
        await self._daemon.move()
        self._side = "new" if self._side == "old" else "old"

    # ---- the application

    async def _work(self, group: Group) -> None:
        if not group.together:
            for each in group.transactions:
                await self._transact(each)
            return
        pipeline = self._daemon.pipeline
        await pipeline.write_gate.pause()
        try:
            for each in group.transactions:
                await self._transact(each)
            cursor = await self._application.execute("SELECT pg_current_wal_insert_lsn()::text")
            row = await cursor.fetchone()
            position = parse_lsn(row[0] if row else "0/0")
            await pipeline.nudge()
            await self._daemon.until(lambda: self._daemon.pipeline.received >= position)
        finally:
            pipeline.write_gate.resume()

    async def _transact(self, transaction: Transaction) -> None:
        with suppress(psycopg.errors.IntegrityError):  # of a constraint that has waited
            async with self._application.transaction():
                for part in transaction:
                    with suppress(*ADMISSIBLE):
                        async with self._application.transaction():
                            await self._application.execute(on_side(part, self._side).encode())
                    await self._note_who_stays()

    async def _note_who_stays(self) -> None:
        for scene in self._history.scenes if self._side == "new" else ():
            if scene.kept is not None:
                cursor = await self._application.execute(f"SELECT id FROM shop.{scene.kept.table}".encode())
                there = {row[0] async for row in cursor}
                kept = self._kept[scene.name]
                self._kept[scene.name] = {key: value for key, value in kept.items() if key in there}

    # ---- the oracle

    async def _wrong(self) -> list[Finding]:
        await self._daemon.drain()
        found = self._refused + await self._quarantined() + await self._differences()
        for scene in self._history.scenes if self._side == "new" else ():
            values = await self._values(scene)
            found += [
                (scene.name, "not kept", str(key), value, values.get(key, "no row"))
                for key, value in self._kept[scene.name].items()
                if values.get(key) != value
            ]
        return found

    async def _values(self, scene: Scene) -> dict[int, str]:
        if scene.kept is None:
            return {}
        cursor = await self._application.execute(
            f"SELECT id, {scene.kept.column} FROM public.{scene.kept.table}".encode()
        )
        return {row[0]: row[1] async for row in cursor}

    async def _quarantined(self) -> list[Finding]:
        """What is so for good."""
        deadline = asyncio.get_running_loop().time() + LATER
        while True:
            cursor = await self._application.execute("SELECT transform, source_key, error FROM _replicator.quarantine")
            found = [("quarantined", *map(str, row)) async for row in cursor]
            if self._refused or not found or asyncio.get_running_loop().time() > deadline:
                return found
            await self._daemon.drain()

    async def _differences(self) -> list[Finding]:
        source: Side = self._side
        target: Side = "new" if source == "old" else "old"
        found: list[Finding] = []
        for scene in self._history.scenes:
            for pair in scene.forward if source == "old" else scene.reverse:
                given, held = on_side(pair[0], source), on_side(pair[1], target)
                for kind, one, other in (("missing", given, held), ("extra", held, given)):
                    cursor = await self._application.execute(f"({one}) EXCEPT ALL ({other}) LIMIT 5".encode())
                    found += [(scene.name, kind, held, str(row)) async for row in cursor]
        return found
