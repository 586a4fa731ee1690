"""Builds the status document from what the daemon and the control tables know."""

import os
import socket
from collections import Counter
from datetime import UTC, datetime
from time import monotonic

from replicator.errors import ReplicatorError
from replicator.gates import Gate, look_at_gates
from replicator.lsn import format_lsn
from replicator.observe.status import Daemon, ErrorEntry, StatusDocument, blank, version
from replicator.phases import Phase
from replicator.pipeline import Pipeline
from replicator.postgres.connect import Connection
from replicator.postgres.progress import SourceProgress, backfill_progress
from replicator.postgres.quarantine import count_entries
from replicator.settings import Settings
from replicator.verify import summary

ERRORS_KEPT = 10


class Reporter:
    """Remembers what a single look cannot tell: the speed of the backfill, the last errors."""

    def __init__(self, migration: str) -> None:
        self.document: StatusDocument = blank(migration)
        self.pause_seconds: float | None = None
        self.gates: list[Gate] = []
        self._errors: list[ErrorEntry] = []
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._copied: tuple[float, int] | None = None

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
            self.gates = await look_at_gates(pipeline, phase, settings, target, opposite)
            document["gates"] = [{"name": each.name, "ok": each.ok, "detail": each.detail} for each in self.gates]
            document["ready"] = phase == Phase.FOLLOW and all(each.ok for each in self.gates)
        self.document = document
        return document

    async def _pipeline(self, document: StatusDocument, pipeline: Pipeline, target: Connection) -> None:
        verifier = pipeline.verifier
        document["direction"] = pipeline.direction
        document["plugin"] = pipeline.progress.plugin
        document["since"] = self._started
        document["lag_bytes"], document["lag_seconds"] = pipeline.watch.lag.bytes, pipeline.watch.lag.seconds
        document["applied_lsn"] = format_lsn(pipeline.position)
        document["received_lsn"] = format_lsn(pipeline.received)
        document["slot_retained_bytes"] = pipeline.watch.retained_bytes
        progress = await backfill_progress(target, pipeline.direction)
        document["backfill"] = [
            {"table": each.source, "rows": each.rows, "expected": each.expected, "done": each.done} for each in progress
        ]
        document["backfill_seconds_remaining"] = self._remaining(progress)
        targets = [table.called for table in pipeline.context.plan.targets]
        document["divergence"] = summary(verifier.divergences, targets)  # type: ignore[typeddict-item]
        document["verify"] = {
            "text": verifier.standing.text,
            "passes": verifier.passes,
            "clean_at": verifier.clean_at.isoformat(timespec="seconds") if verifier.clean_at else None,
            "running": {"done": verifier.done, "total": verifier.total} if verifier.running else None,
            "unsettled": pipeline.context.touches.waiting_count(),
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


def _add_opposite(document: StatusDocument, opposite: Pipeline) -> None:
    """While both schemas take writes: the lag is of the one that is further behind."""
    if document["lag_bytes"] is not None and opposite.watch.lag.bytes is not None:
        document["lag_bytes"] = max(document["lag_bytes"], opposite.watch.lag.bytes)
    if document["lag_seconds"] is not None and opposite.watch.lag.seconds is not None:
        document["lag_seconds"] = max(document["lag_seconds"], opposite.watch.lag.seconds)
    document["slot_retained_bytes"] = max(document["slot_retained_bytes"] or 0, opposite.watch.retained_bytes)
    counts = Counter(transform for transform, _ in opposite.context.quarantined)
    document["quarantined"] += [{"transform": name, "rows": rows} for name, rows in sorted(counts.items())]
