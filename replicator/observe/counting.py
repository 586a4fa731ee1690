"""Counts what a pipeline does."""

from replicator.apply.outcome import Outcome
from replicator.follow.transaction_buffer import Batch
from replicator.migration import Direction
from replicator.observe.metrics import Metrics
from replicator.pipeline.pipeline import Observers


def count_into(metrics: Metrics, direction: Direction) -> Observers:
    """Observers that count into these metrics."""

    def on_batch(outcome: Outcome, batch: Batch, seconds: float) -> None:
        metrics.apply_seconds.observe(seconds)
        metrics.transactions_applied_total.inc(batch.transactions)
        for (table, operation), count in outcome.changes.items():
            metrics.changes_total.labels(table, operation).inc(count)
        for (table, operation), count in outcome.written.items():
            metrics.rows_written_total.labels(table, operation).inc(count)
        if outcome.lost:
            metrics.conflicts_total.labels(direction).inc(outcome.lost)
        if outcome.failures:
            metrics.errors_total.labels("quarantine").inc(len(outcome.failures))

    return Observers(
        on_batch=on_batch,
        on_copied=lambda source, rows: metrics.backfill_rows_total.labels(source).inc(rows),
        on_resumed=metrics.resumed,
        on_verified=lambda target, rows: metrics.verified_rows_total.labels(target).inc(rows),
    )
