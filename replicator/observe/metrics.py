"""The Prometheus metrics of the daemon, on a registry of their own.

A gauge that has not been measured yet is NaN, which no alert compares as true; 0 is a measured zero.
"""

import math
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from replicator.switchover.phases import Phase

PHASES = tuple(str(phase) for phase in Phase)
LOOP_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
APPLY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Every metric as an attribute of its own name, less `replicator_`; `registry` is what `/metrics` serves."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the package leaves this one untyped
        self.registry = CollectorRegistry()
        self._labels: dict[str, frozenset[str]] = {}
        self._resumed: set[str] = set()

        self.phase = self._gauge("phase", "1 for the phase that the migration is in, 0 for the others.", "phase")
        self.ready = self._gauge("ready", "1 when every gate of the cutover holds, else 0.")
        self.gate = self._gauge("gate", "1 when this gate of the cutover holds, else 0.", "gate")
        self.errors_total = self._counter("errors_total", "Errors by kind, retried ones too.", "kind")

        self.hooks_total = self._counter(
            "hooks_total", "Calls of a hook; outcome is ok, failed or timeout.", "event", "outcome"
        )

        self.lag_bytes = self._measured(
            "lag_bytes", "Bytes of WAL, of whatever kind, from the applied position to the source's end."
        )
        self.lag_seconds = self._measured(
            "lag_seconds", "Seconds since which something may wait to be applied; a restart does not begin it anew."
        )
        self.slot_retained_bytes = self._measured("slot_retained_bytes", "Bytes of WAL that the source keeps for us.")
        self.received_lsn = self._measured("received_lsn", "Last position received from the source, in bytes of WAL.")
        self.applied_lsn = self._measured("applied_lsn", "Last position applied to the target, in bytes of WAL.")
        self.transactions_applied_total = self._counter("transactions_applied_total", "Source transactions applied.")
        self.changes_total = self._counter("changes_total", "Row changes received.", "table", "operation")
        self.rows_written_total = self._counter("rows_written_total", "Rows written.", "table", "operation")
        self.conflicts_total = self._counter(
            "conflicts_total", "Changes that lost against a later write of the other schema.", "direction"
        )
        self.apply_seconds = self._histogram("apply_seconds", "Seconds to write a batch and commit it.", APPLY_BUCKETS)

        self._rows()
        self.loop_lag_seconds = self._histogram(
            "loop_lag_seconds", "Seconds by which the daemon's event loop was late, looked at each 10 ms.", LOOP_BUCKETS
        )
        self.cutover_write_pause_seconds = self._measured(
            "cutover_write_pause_seconds", "Seconds that writers waited in the last cutover."
        )

    def _rows(self) -> None:
        """What is counted by table."""
        self.backfill_rows_total = self._counter(
            "backfill_rows_total", "Source rows copied, all runs counted.", "table"
        )
        self.backfill_rows_expected = self._gauge("backfill_rows_expected", "Source rows to copy, estimated.", "table")
        self.backfill_seconds_remaining = self._measured("backfill_seconds_remaining", "Seconds left, estimated.")

        self.rows = self._gauge("rows", "Rows in a table, estimated; side is old or new.", "side", "table")
        self.verified_rows_total = self._counter("verified_rows_total", "Target rows compared.", "table")
        self.divergent_rows = self._gauge(
            "divergent_rows", "Rows of confirmed divergence; kind is missing, extra or different.", "table", "kind"
        )
        self.verify_pass_completed_timestamp_seconds = self._gauge(
            "verify_pass_completed_timestamp_seconds", "When the last clean pass ended, in Unix seconds; 0: none yet."
        )
        self.quarantined_rows = self._gauge("quarantined_rows", "Rows in quarantine, by transform.", "transform")

    def resumed(self, table: str, rows: int) -> None:
        """Count rows that an earlier process has copied, once."""
        if table not in self._resumed:
            self._resumed.add(table)
            self.backfill_rows_total.labels(table).inc(rows)

    def phase_is(self, phase: str) -> None:
        """Show this phase as the one that the migration is in."""
        if phase not in PHASES:
            raise ValueError(f"unknown phase {phase!r}, expected one of {', '.join(PHASES)}")
        for name in PHASES:
            self.phase.labels(name).set(name == phase)

    def names(self) -> set[str]:
        """List every sample name that `/metrics` can show, with its `_total`, `_bucket` and so on."""
        return set(self._labels)

    def labels(self) -> dict[str, frozenset[str]]:
        """Give the label names of every sample name."""
        return dict(self._labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._note(name, labels, "")
        return Gauge(name, text, labels, namespace="replicator", registry=self.registry)

    def _measured(self, name: str, text: str) -> Gauge:
        gauge = self._gauge(name, text)
        gauge.set(math.nan)
        return gauge

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self._note(name, labels, "")
        return Counter(name, text, labels, namespace="replicator", registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        self._note(name, ("le",), "_bucket")
        self._note(name, (), "_count", "_sum")
        return Histogram(name, text, namespace="replicator", registry=self.registry, buckets=buckets)

    def _note(self, name: str, labels: tuple[str, ...], *suffixes: str) -> None:
        for suffix in suffixes:
            self._labels[f"replicator_{name}{suffix}"] = frozenset(labels)
