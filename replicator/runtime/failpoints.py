"""Named places at which a test may let the daemon die, fail or stand still. Without the variable they cost nothing.

``REPLICATOR_FAILPOINT`` arms them: ``batch_committed:3:kill`` kills the process when it passes there for the third
time. Several are separated by commas. The actions are

- ``kill``: SIGKILL to itself; with seconds after it (``kill:0.01``), so long after the passing, while the work goes on
- ``term``: SIGTERM to itself, likewise
- ``lose``: raises ConnectionLostError, as if a server had gone away
- ``hang:2``: stands still for so many seconds

A test that runs the engine in its own process does there what it likes: ``with handled(Failpoint.STAGED, function):``.
"""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from replicator.errors import ConnectionLostError, UsageError
from replicator.runtime.log import get_logger

log = get_logger("failpoints")

VARIABLE = "REPLICATOR_FAILPOINT"
ACTIONS = ("kill", "term", "lose", "hang")


class Failpoint(StrEnum):
    """All of them. The tests take the list from here: each is tried."""

    # ---- set-up and resuming
    LEASED = "leased"
    """A lease is held, and its epoch counted up; passed once for each database."""
    RESUMING = "resuming"
    """The stored phase is read; nothing is done about it yet."""
    RESUMED = "resumed"
    """The pipeline of the stored phase follows; no stage has begun, and no command is answered yet."""
    TABLES_MADE = "tables_made"
    """The new tables are there and refuse writes; there is no publication yet."""
    PUBLISHED = "published"
    """The publication is there (pgoutput); the slot is not. Passed for the reverse slot too, as are the next two."""
    SLOT_MADE = "slot_made"
    """The slot is there; its progress is not stored."""
    PROGRESS_MADE = "progress_made"
    """The slot's progress is stored; the phase is not."""
    PHASE_COMING = "phase_coming"
    """Before a phase is stored; passed at each change."""
    PHASE_STORED = "phase_stored"
    """After a phase is stored; likewise."""

    # ---- the new schema
    STATEMENT_COMING = "statement_coming"
    """Before a statement of sql/new is run: a table's, an index's, a constraint's."""
    STATEMENT_DONE = "statement_done"
    """After it."""

    # ---- backfill
    CHUNK_PLANNED = "chunk_planned"
    """A chunk is stored, and in nobody's hands."""
    CHUNK_READ = "chunk_read"
    """A chunk is read and derived; its window is open."""
    CHUNK_WRITTEN = "chunk_written"
    """A chunk is written and marked done in the open transaction."""
    CHUNK_COMMITTED = "chunk_committed"
    """A chunk's transaction is committed."""
    CHUNKS_DONE = "chunks_done"
    """All chunks are committed; the consistent point is not applied."""

    # ---- follow and apply
    STAGED = "staged"
    """Rows are in the staging table, of a batch or a chunk; the target table is not written."""
    BATCH_WRITTEN = "batch_written"
    """A batch's rows are written; its progress is not."""
    BATCH_COMMITTING = "batch_committing"
    """The progress is written too, of a batch or of an idle stream; nothing is committed."""
    BATCH_COMMITTED = "batch_committed"
    """A batch is committed; the server has not been told."""
    IDLE_COMMITTED = "idle_committed"
    """The progress of an idle stream is committed; the server has not been told."""
    CONFIRMED = "confirmed"
    """The server has been told."""

    # ---- repair
    REDO_WRITTEN = "redo_written"
    """Repaired rows are written, not committed."""
    REDO_COMMITTED = "redo_committed"
    """Repaired rows are committed."""

    RECONCILED = "reconciled"
    """After a rollback: the new rows are what the old ones give again; that it is done is not stored."""

    # ---- cutover, either way
    OPPOSITE_MADE = "opposite_made"
    """The opposite slot is there and followed; what it must remember is not read."""
    OPPOSITE_FILLED = "opposite_filled"
    """The opposite pipeline remembers all that it must; the cutover proper has not begun."""
    CUTOVER_BEGUN = "cutover_begun"
    """The cutover's transaction is open; the lock is not asked for."""
    CUTOVER_LOCKED = "cutover_locked"
    """The writers are held."""
    CUTOVER_DRAINED = "cutover_drained"
    """The last change is applied."""
    CUTOVER_CHECKED = "cutover_checked"
    """The final check is clean, sequences are set, the migration's own checks hold."""
    CUTOVER_GUARDED = "cutover_guarded"
    """The guards are switched; the state row is not written."""
    CUTOVER_COMMITTING = "cutover_committing"
    """The state row is written; the commit is not sent."""
    CUTOVER_COMMITTED = "cutover_committed"
    """The commit is done; the reply has not been seen."""
    ACTIVATING = "activating"
    """Ownership has moved in the database of the old owner; where there are two, the new one does not know."""
    ACTIVATED = "activated"
    """The new owner's database takes writes."""
    RETIRING = "retiring"
    """Before the slot of the pipeline that is no longer needed is dropped."""
    RETIRED = "retired"
    """After that; the phase is not stored."""
    TAKING_BACK = "taking_back"
    """A cutover has failed and nothing has moved: before the opposite pipeline is dropped."""
    SETTLING = "settling"
    """The daemon starts and finds a cutover under way: who owns the data is read, nothing is done about it."""


@dataclass(frozen=True, kw_only=True)
class Arming:
    """What to do at a failpoint, and at which passing of it."""

    passing: int
    action: str
    seconds: float | None = None


def parse(text: str) -> dict[Failpoint, Arming]:
    """Read ``name:passing:action[:seconds]``, separated by commas. Raises UsageError."""
    found = {}
    for part in filter(None, text.split(",")):
        try:
            name, passing, action, *seconds = part.split(":")
            arming = Arming(passing=int(passing), action=action, seconds=float(seconds[0]) if seconds else None)
            found[Failpoint(name)] = arming
        except ValueError as error:
            raise UsageError(f"{VARIABLE} cannot be read: {error}.", "Take it out of the environment.") from None
        if action not in ACTIONS:
            raise UsageError(f"{VARIABLE} names the action {action}.", f"There are {', '.join(ACTIONS)}.")
    return found


@cache
def _armed() -> Mapping[Failpoint, Arming]:
    return parse(os.environ.get(VARIABLE, ""))


_passed: Counter[Failpoint] = Counter()
_handlers: dict[Failpoint, Callable[[], Awaitable[object]]] = {}


@contextmanager
def handled(point: Failpoint, handler: Callable[[], Awaitable[object]]) -> Iterator[None]:
    """Call a function whenever this process reaches a place. What it raises is raised there."""
    before, _handlers[point] = _handlers.get(point), handler
    try:
        yield
    finally:
        if _handlers.get(point) is handler:  # else it was taken away meanwhile, and another one may be there
            if before is None:
                del _handlers[point]
            else:
                _handlers[point] = before


async def reach(point: Failpoint) -> None:
    """Say that this place is reached. Nothing happens unless it is armed, or handled."""
    if (handler := _handlers.get(point)) is not None:
        await handler()
    arming = _armed().get(point)
    if arming is None:
        return
    _passed[point] += 1
    if _passed[point] == arming.passing:
        log.warning("failpoint", name=str(point), passing=arming.passing, action=arming.action, seconds=arming.seconds)
        await _act(point, arming)


async def _act(point: Failpoint, arming: Arming) -> None:
    match arming.action:
        case "hang":
            await asyncio.sleep(arming.seconds or 0)
        case "lose":
            raise ConnectionLostError(f"The connection failed: the failpoint {point}.", "Nothing: it is a test.")
        case action:
            number = signal.SIGKILL if action == "kill" else signal.SIGTERM
            if arming.seconds is None:
                os.kill(os.getpid(), number)
            else:
                asyncio.get_running_loop().call_later(arming.seconds, os.kill, os.getpid(), number)
