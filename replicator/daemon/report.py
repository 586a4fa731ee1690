"""Builds the status document from what the daemon and the control tables know."""

import asyncio
import contextlib
import os
import socket
from collections import Counter
from datetime import UTC, datetime
from time import monotonic

from replicator.core.lsn import format_lsn
from replicator.daemon.current_phase import CurrentPhase
from replicator.daemon.pipelines import Pipelines
from replicator.daemon.waiting import Waiting
from replicator.errors import ReplicatorError
from replicator.migration import Migration
from replicator.observe.history import History
from replicator.observe.metrics import Metrics
from replicator.observe.next_steps import next_steps
from replicator.observe.status import (
    Daemon,
    ErrorEntry,
    Return,
    StatusDocument,
    Wait,
    blank,
    divergent_rows,
    publish,
    stale,
    version,
)
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.catalog.catalog import live_rows
from replicator.postgres.control.control import STALE_SECONDS, unreplicated, write_status
from replicator.postgres.control.journal import read_journal
from replicator.postgres.control.ownership import read_ownership
from replicator.postgres.control.progress import SourceProgress, backfill_progress
from replicator.postgres.control.quarantine import count_entries
from replicator.postgres.session.connect import Connection, connection
from replicator.settings import Settings
from replicator.switchover.gates import Gate, look_at_gates
from replicator.switchover.handover import latest
from replicator.switchover.held_up import HeldUp
from replicator.switchover.phases import Phase
from replicator.switchover.way_back import way_back
from replicator.verify import summary

ERRORS_KEPT = 10
JOURNAL = 50
"""Entries that the page shows."""
STATUS_SECONDS = 1.0
START_SECONDS = 2.0
SILENT_SECONDS = 15.0
"""From then on, a daemon that has not looked is not well."""
STALLED_SECONDS = 120.0
"""From then on, one that applies nothing is not, though something waits. One batch may take long."""


class Reporter:
    """Remembers what a single look cannot tell: the speed of the backfill, the last errors."""

    def __init__(self, migration: str, waiting: Waiting | None = None) -> None:
        self.waiting = waiting
        self._stalled = Stalled()
        self._looked: float | None = None
        self.document: StatusDocument = blank(migration)
        self.pause_seconds: float | None = None
        self.gates: list[Gate] = []
        self._errors: list[ErrorEntry] = []
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._copied: tuple[float, int] | None = None
        self.history = History()
        self.journal: list[dict[str, object]] = []
        """Its latest entries, as JSON has them."""

    def current(self) -> StatusDocument:
        """The document as far as it may be believed; may be called by any thread."""
        age = self.age
        return self.document if age is None or age <= STALE_SECONDS else stale(self.document, age)

    @property
    def age(self) -> float | None:
        """How many seconds ago somebody has looked; None before the first time."""
        return None if self._looked is None else monotonic() - self._looked

    @property
    def trouble(self) -> str | None:
        """Why the daemon does not do its work, if it does not; may be called by any thread."""
        if self.age is not None and self.age > SILENT_SECONDS:
            return f"The daemon has not looked at the databases for {self.age:.0f} s: one of them does not answer."
        return (self.waiting and self.waiting.trouble) or self._stalled.trouble

    def failed(self, error: ReplicatorError) -> None:
        """Remember an error."""
        entry = ErrorEntry(at=datetime.now(UTC).isoformat(timespec="seconds"), kind=error.kind, text=str(error))
        self._errors = [*self._errors, entry][-ERRORS_KEPT:]
        self.document = {**self.document, "errors": self._errors}

    async def look(
        self,
        pipeline: Pipeline | None,
        phase: Phase,
        owner: str,
        settings: Settings,
        target: Connection,
        opposite: Pipeline | None = None,
    ) -> StatusDocument:
        """The document as of now. ``target`` is a connection to the pipeline's target.

        :param opposite: the other pipeline, while both schemas take writes.
        """
        document = blank(self.document["migration"])
        document["phase"], document["owner"] = phase, owner
        document["errors"] = self._errors
        document["cutover_write_pause_seconds"] = self.pause_seconds
        document["daemon"] = Daemon(
            pid=os.getpid(), host=socket.gethostname(), started_at=self._started, version=version()
        )
        if pipeline is not None:
            await self._pipeline(document, pipeline, target)
            if opposite is not None:
                _add_opposite(document, opposite)
            await self._readiness(document, pipeline, phase, settings, target, opposite)
        document["next"] = next_steps(
            phase, ready=document["ready"], gates=document["gates"], way_back=document["way_back"]["state"]
        )
        self.history.note(datetime.now(UTC), document["lag_seconds"], document["lag_bytes"])
        document["waiting"] = [
            {"session": each.purpose, "seconds": each.seconds, "in_the_way": each.in_the_way}
            for each in (self.waiting.found if self.waiting else ())
        ]
        self._looked = monotonic()
        self.document = document
        return document

    async def _readiness(
        self,
        document: StatusDocument,
        pipeline: Pipeline,
        phase: Phase,
        settings: Settings,
        target: Connection,
        opposite: Pipeline | None,
    ) -> None:
        """The gates, and what keeps them shut."""
        self._stalled.look(pipeline)
        self.gates = await look_at_gates(pipeline, phase, settings, target, opposite, trouble=self.trouble)
        document["gates"] = [{"name": each.name, "ok": each.ok, "detail": each.detail} for each in self.gates]
        document["ready"] = phase == Phase.FOLLOW and all(each.ok for each in self.gates)
        declared = pipeline.context.plan.migration.way_back
        document["way_back"] = told_way_back(document, declared=declared)
        document["facts"] = [
            {"gate": each.gate, "problem": each.problem, "remedy": each.remedy} for each in pipeline.monitor.wrong
        ]

    async def _pipeline(self, document: StatusDocument, pipeline: Pipeline, target: Connection) -> None:
        verifier = pipeline.verifier
        document["direction"] = pipeline.direction
        document["plugin"] = pipeline.progress.plugin
        document["since"] = self._started
        document["lag_bytes"], document["lag_seconds"] = pipeline.monitor.lag.bytes, pipeline.monitor.lag.seconds
        document["applied_lsn"] = format_lsn(pipeline.position)
        document["received_lsn"] = format_lsn(pipeline.received)
        document["slot_retained_bytes"] = pipeline.monitor.retained_bytes
        progress = await backfill_progress(target, pipeline.direction)
        document["backfill"] = [
            {"table": each.source, "rows": each.rows, "expected": each.expected, "done": each.done} for each in progress
        ]
        document["backfill_seconds_remaining"] = self._remaining(progress)
        targets = [table.declared for table in pipeline.context.plan.targets]
        document["divergence"] = summary(verifier.divergences, targets)  # type: ignore[typeddict-item]
        document["verify"] = {
            "text": verifier.standing.text,
            "passes": verifier.passes,
            "clean_at": verifier.clean_at.isoformat(timespec="seconds") if verifier.clean_at else None,
            "running": {"done": verifier.done, "total": verifier.total} if verifier.running else None,
            "unsettled": pipeline.context.dirty_keys.waiting_count(),
        }
        standing = await count_entries(target, pipeline=pipeline.direction, state="standing")
        document["quarantined"] = [{"transform": name, "rows": rows} for name, rows in standing.items()]
        discarded = await count_entries(target, pipeline=pipeline.direction, state="discarded")
        document["discarded"] = [{"transform": name, "rows": rows} for name, rows in discarded.items()]

    def _remaining(self, progress: list[SourceProgress]) -> float | None:
        """Seconds until the backfill is done, at the speed since this daemon began to look."""
        if progress and all(each.done for each in progress):
            return 0.0
        rows, now = sum(each.rows for each in progress), monotonic()
        if self._copied is None:
            self._copied = (now, rows)
        began, had = self._copied
        left = sum(max(0, each.expected - each.rows) for each in progress if not each.done)
        return left * (now - began) / (rows - had) if rows > had else None


def told_way_back(document: StatusDocument, *, declared: bool) -> Return:
    """Whether the way back is open, as ``smoke`` and ``rollback`` say it too."""
    found = way_back(document["phase"], declared=declared, gates=document["gates"], differing=divergent_rows(document))
    return Return(state=found.state, detail=f"{found.problem} {found.remedy}".strip())


class Stalled:
    """Whether a pipeline stands still while something waits to be applied."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._at: object = None
        self._since = monotonic()

    def look(self, pipeline: Pipeline) -> None:
        """Look once more."""
        at = (pipeline.direction, pipeline.position, pipeline.batches_taken)
        if at != self._at or (pipeline.monitor.lag.seconds or 0.0) < STALLED_SECONDS:
            self._at, self._since = at, monotonic()
        seconds = monotonic() - self._since
        changes = f"Nothing has been applied for {seconds:.0f} s, though changes wait: see the daemon's log."
        self.trouble = changes if seconds >= STALLED_SECONDS else None


def _add_opposite(document: StatusDocument, opposite: Pipeline) -> None:
    """While both schemas take writes: the lag is of the one that is further behind."""
    if document["lag_bytes"] is not None and opposite.monitor.lag.bytes is not None:
        document["lag_bytes"] = max(document["lag_bytes"], opposite.monitor.lag.bytes)
    if document["lag_seconds"] is not None and opposite.monitor.lag.seconds is not None:
        document["lag_seconds"] = max(document["lag_seconds"], opposite.monitor.lag.seconds)
    document["slot_retained_bytes"] = max(document["slot_retained_bytes"] or 0, opposite.monitor.retained_bytes)
    counts = Counter(transform for transform, _ in opposite.context.quarantined)
    document["quarantined"] += [{"transform": name, "rows": rows} for name, rows in sorted(counts.items())]


async def report_on(
    settings: Settings,
    migration: Migration,
    metrics: Metrics,
    reporter: Reporter,
    phase: CurrentPhase,
    pipelines: Pipelines,
    held_up: HeldUp,
    up: asyncio.Event,
) -> None:
    """Look, publish and store, once a second. Never returns.

    :param up: the first look waits for it, but not for long.
    """
    with contextlib.suppress(TimeoutError):  # a start that takes long is told of: it may wait for somebody
        await asyncio.wait_for(up.wait(), START_SECONDS)
    async with connection(settings.source, "status") as old, connection(settings.target, "status") as new:
        await unreplicated(new)
        while True:
            owner = latest(await read_ownership(old), await read_ownership(new)).owner
            async with pipelines.names:
                active = pipelines.active  # another one may become active while this one is looked at
                reverse = active is not None and active.direction == "reverse"
                document = await reporter.look(
                    active, phase.now, owner, settings, old if reverse else new, pipelines.opposite
                )
                if held_up.in_the_way:
                    told = Wait(session=held_up.move, seconds=held_up.seconds, in_the_way=held_up.in_the_way)
                    document["waiting"].append(told)
            publish(document, metrics)
            for side, reading, name in (("old", old, migration.old), ("new", new, migration.new)):
                for table, rows in (await live_rows(reading, name)).items():
                    metrics.rows.labels(side, table).set(rows)
            await write_status(new, document)
            reporter.journal = [vars(each) | {"at": each.at.isoformat()} for each in await read_journal(new, JOURNAL)]
            await asyncio.sleep(STATUS_SECONDS)
