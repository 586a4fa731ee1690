"""The status document as gauges."""

import math
from typing import Any

import pytest

from replicator.cli import page
from replicator.observe.metrics import Metrics
from replicator.observe.status import StatusDocument, blank, divergent_rows, from_stored, publish
from replicator.switchover.phases import Phase


def document(**facts: Any) -> StatusDocument:
    return from_stored({"migration": "party", **facts})


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"replicator_{name}", labels)


MEASURED = {
    "lag_bytes": (12, 12),
    "lag_seconds": (0.5, 0.5),
    "slot_retained_bytes": (16, 16),
    "applied_lsn": ("1/A", 0x1_0000_000A),
    "received_lsn": ("FFFF/FFFFFFFF", 0xFFFF_FFFF_FFFF),
    "backfill_seconds_remaining": (7.5, 7.5),
    "cutover_write_pause_seconds": (0.012, 0.012),
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_measured_fact_is_a_gauge_and_one_that_is_not_measured_is_nan(name: str) -> None:
    metrics = Metrics()
    stored, expected = MEASURED[name]
    publish(document(**{name: stored}), metrics)
    assert value(metrics, name) == expected
    publish(document(), metrics)
    assert math.isnan(value(metrics, name) or 0)


def test_the_phase_and_the_gates() -> None:
    metrics = Metrics()
    gates = [{"name": "lag", "ok": True, "detail": ""}, {"name": "verify", "ok": False, "detail": ""}]
    publish(document(phase="follow", ready=True, gates=gates), metrics)
    assert (value(metrics, "phase", phase="follow"), value(metrics, "phase", phase="new")) == (1, 0)
    assert (value(metrics, "gate", gate="lag"), value(metrics, "gate", gate="verify")) == (1, 0)
    assert value(metrics, "ready") == 1
    publish(document(phase="backfill", gates=gates), metrics)
    assert value(metrics, "ready") == 0


def test_divergence_quarantine_and_what_is_expected() -> None:
    metrics = Metrics()
    publish(
        document(
            divergence=[{"table": "events", "missing": 1, "extra": 2, "different": 3, "examples": []}],
            quarantined=[{"transform": "event", "rows": 4}],
            backfill=[{"table": "requests", "rows": 5, "expected": 60, "done": False}],
        ),
        metrics,
    )
    found = [value(metrics, "divergent_rows", table="events", kind=kind) for kind in ("missing", "extra", "different")]
    assert found == [1, 2, 3]
    assert value(metrics, "quarantined_rows", transform="event") == 4
    assert value(metrics, "backfill_rows_expected", table="requests") == 60


def test_every_phase_has_words_on_the_page() -> None:
    assert page.PHASES.keys() == {str(phase) for phase in Phase}


def test_what_is_over_goes_to_0() -> None:
    metrics = Metrics()
    publish(
        document(
            divergence=[{"table": "events", "missing": 1, "extra": 0, "different": 0, "examples": []}],
            quarantined=[{"transform": "event", "rows": 4}],
        ),
        metrics,
    )
    publish(document(), metrics)
    assert value(metrics, "divergent_rows", table="events", kind="missing") == 0
    assert value(metrics, "quarantined_rows", transform="event") == 0


def test_the_clean_pass_is_a_unix_time() -> None:
    metrics = Metrics()
    verify = {"text": "", "passes": 1, "clean_at": "2026-01-02T03:04:05+00:00", "running": None, "unsettled": 0}
    publish(document(verify=verify), metrics)
    assert value(metrics, "verify_pass_completed_timestamp_seconds") == 1767323045
    publish(document(), metrics)
    assert value(metrics, "verify_pass_completed_timestamp_seconds") == 0


def test_a_stored_document_keeps_what_it_has_and_gets_what_it_lacks() -> None:
    assert from_stored({"migration": "party"}) == blank("party")
    assert from_stored({**blank("party"), "phase": "soak"})["phase"] == "soak"


def test_divergent_rows_are_summed() -> None:
    found = {"missing": 1, "extra": 2, "different": 3, "examples": []}
    tables: list[dict[str, object]] = [{"table": "a", **found}, {"table": "b", **found}]
    assert divergent_rows(document(divergence=tables)) == 12
