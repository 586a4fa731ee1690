"""The metrics that are exposed are exactly the documented ones, and say nothing that has not been measured."""

import math
from collections.abc import Iterator

import pytest
from prometheus_client import Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from replicator.observe.metrics import PHASES, Metrics

DOCUMENTED = {
    "phase": {"phase"},
    "ready": set(),
    "gate": {"gate"},
    "errors_total": {"kind"},
    "conflicts_total": {"direction"},
    "hooks_total": {"event", "outcome"},
    "lag_bytes": set(),
    "lag_seconds": set(),
    "slot_retained_bytes": set(),
    "received_lsn": set(),
    "applied_lsn": set(),
    "transactions_applied_total": set(),
    "changes_total": {"table", "operation"},
    "rows_written_total": {"table", "operation"},
    "apply_seconds_bucket": {"le"},
    "apply_seconds_count": set(),
    "apply_seconds_sum": set(),
    "loop_lag_seconds_bucket": {"le"},
    "loop_lag_seconds_count": set(),
    "loop_lag_seconds_sum": set(),
    "backfill_rows_total": {"table"},
    "backfill_rows_expected": {"table"},
    "backfill_seconds_remaining": set(),
    "rows": {"side", "table"},
    "verified_rows_total": {"table"},
    "divergent_rows": {"table", "kind"},
    "verify_pass_completed_timestamp_seconds": set(),
    "quarantined_rows": {"transform"},
    "cutover_write_pause_seconds": set(),
}


def samples(metrics: Metrics) -> Iterator[Sample]:
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        yield from family.samples


def touch_all(metrics: Metrics) -> None:
    labels = metrics.labels()
    for name, metric in vars(metrics).items():
        if isinstance(metric, (Gauge, Counter, Histogram)):
            names = labels.get(f"replicator_{name}", frozenset())
            child = metric.labels(**dict.fromkeys(names, "x")) if names else metric
            child.observe(1) if isinstance(child, Histogram) else child.inc()


def test_exposes_the_documented_metrics_and_no_others() -> None:
    metrics = Metrics()
    touch_all(metrics)
    shown = {sample.name: set(sample.labels) for sample in samples(metrics)}
    assert shown == {f"replicator_{name}": labels for name, labels in DOCUMENTED.items()}


def test_names_and_labels_are_those_that_are_exposed() -> None:
    metrics = Metrics()
    touch_all(metrics)
    shown = {sample.name: frozenset(sample.labels) for sample in samples(metrics)}
    assert metrics.labels() == shown
    assert metrics.names() == set(shown)


def test_an_attribute_bears_the_name_of_its_metric() -> None:
    attributes = {name for name, value in vars(Metrics()).items() if isinstance(value, (Gauge, Counter, Histogram))}
    histograms = {"apply_seconds", "loop_lag_seconds"}
    assert attributes == {name for name in DOCUMENTED if not name.startswith(tuple(histograms))} | histograms


def test_every_metric_has_a_help_text() -> None:
    families = text_string_to_metric_families(generate_latest(Metrics().registry).decode())
    assert [family.name for family in families if not family.documentation.endswith(".")] == []


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if name.endswith(("_bytes", "_seconds", "_lsn"))])
def test_the_help_text_gives_the_unit(name: str) -> None:
    [family] = [family for family in Metrics().registry.collect() if family.name == f"replicator_{name}"]
    assert ("bytes" if name.endswith(("_bytes", "_lsn")) else "seconds") in family.documentation.lower()


@pytest.mark.parametrize("phase", PHASES)
def test_one_phase_at_a_time(phase: str) -> None:
    metrics = Metrics()
    metrics.phase_is("new")
    metrics.phase_is(phase)
    shown = {sample.labels["phase"]: sample.value for sample in samples(metrics) if sample.name == "replicator_phase"}
    assert shown == {name: float(name == phase) for name in PHASES}


def test_an_unknown_phase_is_an_error_that_leaves_the_shown_one() -> None:
    metrics = Metrics()
    metrics.phase_is("follow")
    with pytest.raises(ValueError, match="unknown phase 'folow', expected one of new, backfill"):
        metrics.phase_is("folow")
    assert metrics.registry.get_sample_value("replicator_phase", {"phase": "follow"}) == 1


def test_what_was_never_measured_is_not_a_zero() -> None:
    unmeasured = {sample.name for sample in samples(Metrics()) if math.isnan(sample.value)}
    assert unmeasured == {
        f"replicator_{name}"
        for name in (
            "lag_bytes",
            "lag_seconds",
            "slot_retained_bytes",
            "received_lsn",
            "applied_lsn",
            "backfill_seconds_remaining",
            "cutover_write_pause_seconds",
        )
    }


def test_a_pass_that_never_ended_is_the_oldest_of_all() -> None:
    assert Metrics().registry.get_sample_value("replicator_verify_pass_completed_timestamp_seconds") == 0


def test_an_lsn_is_exact() -> None:
    metrics = Metrics()
    lsn = 0xFFFF_FFFF_FFFF  # 256 TB of WAL
    metrics.applied_lsn.set(lsn)
    [shown] = [sample.value for sample in samples(metrics) if sample.name == "replicator_applied_lsn"]
    assert int(shown) == lsn


def test_two_sets_of_metrics_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.transactions_applied_total.inc()
    assert other.registry.get_sample_value("replicator_transactions_applied_total") == 0
