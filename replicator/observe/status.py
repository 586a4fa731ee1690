"""The status document: what the daemon stores, ``/status`` serves, the metrics show and the commands print."""

import os
import socket
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any, TypedDict, cast

from prometheus_client import Gauge

from replicator.core.lsn import parse_lsn
from replicator.migration import Direction
from replicator.observe.metrics import Metrics
from replicator.observe.next_steps import NextStep, next_steps
from replicator.switchover.way_back import way_back


class Backfill(TypedDict):
    """How far one source table's copy is; ``expected`` is an estimate until it is done."""

    table: str
    rows: int
    expected: int
    done: bool


class Example(TypedDict):
    """The key of one divergent row; ``kind`` is missing, extra or different; ``note`` says why, where that is known."""

    kind: str
    key: list[str]
    columns: list[str]
    note: str


class Divergence(TypedDict):
    """The confirmed divergence of one target table."""

    table: str
    missing: int
    extra: int
    different: int
    examples: list[Example]


class Running(TypedDict):
    """How far a verification pass is, in rows."""

    done: int
    total: int


class Verify(TypedDict):
    """What verification has found so far.

    ``text`` is what the gate ``verified`` says. ``unsettled`` keys have changed since they were compared last.
    """

    text: str
    passes: int
    clean_at: str | None
    running: Running | None
    unsettled: int


class Quarantined(TypedDict):
    """How many rows of one transform are in quarantine, or were discarded from it."""

    transform: str
    rows: int


class Wait(TypedDict):
    """A session of the daemon's that waits for others, which ``in_the_way`` names."""

    session: str
    seconds: float
    in_the_way: list[str]


class Gate(TypedDict):
    """A condition for the cutover; ``detail`` says why it holds or does not."""

    name: str
    ok: bool
    detail: str


class FactEntry(TypedDict):
    """A fact of the ground that is wrong, what to do, and the gate that it keeps shut."""

    gate: str
    problem: str
    remedy: str


class Return(TypedDict):
    """Whether the way back is open (``returning.WayBack``): its state, and why."""

    state: str
    detail: str


class ErrorEntry(TypedDict):
    """One of the last errors."""

    at: str
    kind: str
    text: str


class Daemon(TypedDict):
    """The process that wrote the document."""

    pid: int
    host: str
    started_at: str
    version: str


class StatusDocument(TypedDict):
    """All of it. Positions are text as Postgres prints them, times ISO 8601; None: not measured yet."""

    migration: str
    phase: str
    direction: Direction
    owner: str
    plugin: str | None
    since: str | None
    lag_bytes: int | None
    lag_seconds: float | None
    applied_lsn: str | None
    received_lsn: str | None
    slot_retained_bytes: int | None
    backfill: list[Backfill]
    backfill_seconds_remaining: float | None
    divergence: list[Divergence]
    verify: Verify
    quarantined: list[Quarantined]
    discarded: list[Quarantined]
    gates: list[Gate]
    facts: list[FactEntry]
    ready: bool
    way_back: Return
    next: list[NextStep]
    cutover_write_pause_seconds: float | None
    waiting: list[Wait]
    errors: list[ErrorEntry]
    daemon: Daemon | None


def blank(migration: str) -> StatusDocument:
    """The document before anything has been measured."""
    return StatusDocument(
        migration=migration,
        phase="new",
        direction="forward",
        owner="old",
        plugin=None,
        since=None,
        lag_bytes=None,
        lag_seconds=None,
        applied_lsn=None,
        received_lsn=None,
        slot_retained_bytes=None,
        backfill=[],
        backfill_seconds_remaining=None,
        divergence=[],
        verify=Verify(text="", passes=0, clean_at=None, running=None, unsettled=0),
        quarantined=[],
        discarded=[],
        gates=[],
        facts=[],
        ready=False,
        way_back=Return(state="not known", detail=""),
        next=[],
        cutover_write_pause_seconds=None,
        waiting=[],
        errors=[],
        daemon=None,
    )


def stale(document: StatusDocument, age_seconds: float) -> StatusDocument:
    """A report that is too old to be believed: nothing is ready by it, and no gate open."""
    old = f"not known: nobody has looked for {age_seconds:.0f} s; it was: "
    gates: list[Gate] = [{**each, "ok": False, "detail": old + each["detail"]} for each in document["gates"]]
    back = Return(state="not known", detail=old + document["way_back"]["state"])
    return {**document, "ready": False, "gates": gates, "waiting": [], "way_back": back, "next": []}


def from_stored(document: Mapping[str, Any]) -> StatusDocument:
    """A document as another version of the daemon may have stored it: what is not there is not measured."""
    return cast("StatusDocument", {**blank(""), **document})


def over(document: StatusDocument) -> StatusDocument:
    """What is left to say once the migration is over: the last report may be of a moment before."""
    kept = {name: document[name] for name in ("cutover_write_pause_seconds", "errors")}
    back = way_back("finalized", declared=True, gates=[], differing=0)
    steps = next_steps("finalized", ready=False, gates=[], way_back=back.state)
    told = Return(state=back.state, detail=back.problem)
    ended = {"phase": "finalized", "owner": "new", "way_back": told, "next": steps}
    return cast("StatusDocument", {**blank(document["migration"]), **ended, **kept})


def divergent_rows(document: StatusDocument) -> int:
    """How many rows are divergent, over all tables and kinds."""
    return sum(each["missing"] + each["extra"] + each["different"] for each in document["divergence"])


def version() -> str:
    """The version of replicator that runs."""
    try:
        return installed_version("replicator")
    except PackageNotFoundError:
        return "unknown"


def process_details() -> dict[str, str | int]:
    """Which process this is, for the journal."""
    return {"version": version(), "host": socket.gethostname(), "pid": os.getpid()}


def publish(status: StatusDocument, metrics: Metrics) -> None:
    """Show the document's facts as gauges. The counters are set where things happen."""
    metrics.phase_is(status["phase"])
    metrics.ready.set(status["ready"])
    _measured(metrics.lag_bytes, status["lag_bytes"])
    _measured(metrics.lag_seconds, status["lag_seconds"])
    _measured(metrics.slot_retained_bytes, status["slot_retained_bytes"])
    _measured(metrics.applied_lsn, _position(status["applied_lsn"]))
    _measured(metrics.received_lsn, _position(status["received_lsn"]))
    _measured(metrics.backfill_seconds_remaining, status["backfill_seconds_remaining"])
    _measured(metrics.cutover_write_pause_seconds, status["cutover_write_pause_seconds"])
    clean_at = status["verify"]["clean_at"]
    metrics.verify_pass_completed_timestamp_seconds.set(datetime.fromisoformat(clean_at).timestamp() if clean_at else 0)
    _labelled(metrics.backfill_rows_expected, {(each["table"],): each["expected"] for each in status["backfill"]})
    _labelled(metrics.quarantined_rows, {(each["transform"],): each["rows"] for each in status["quarantined"]})
    _labelled(metrics.gate, {(each["name"],): each["ok"] for each in status["gates"]})
    _labelled(
        metrics.divergent_rows,
        {
            (each["table"], kind): rows
            for each in status["divergence"]
            for kind, rows in (
                ("missing", each["missing"]),
                ("extra", each["extra"]),
                ("different", each["different"]),
            )
        },
    )


def _measured(gauge: Gauge, value: float | None) -> None:
    gauge.set(float("nan") if value is None else value)


def _position(text: str | None) -> int | None:
    return None if text is None else parse_lsn(text)


def _labelled(gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
    """Set one value for each set of labels; what is no longer in the document goes to 0, for an alert to see it end."""
    [family] = gauge.collect()
    shown = {tuple(sample.labels.values()) for sample in family.samples}
    for labels in shown | values.keys():
        gauge.labels(*labels).set(values.get(labels, 0))
