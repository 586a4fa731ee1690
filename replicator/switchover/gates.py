"""The conditions for a cutover: each holds or does not, and says why."""

from dataclasses import dataclass
from typing import Final

from replicator.core.lag import GAP_SECONDS
from replicator.migration import NO_WAY_BACK
from replicator.pipeline.pipeline import Pipeline
from replicator.pipeline.source_monitor import low_lag
from replicator.postgres.control.progress import backfill_progress
from replicator.postgres.control.quarantine import count_entries
from replicator.postgres.ddl.ddl import check_queries, failing_checks, invalid_objects
from replicator.postgres.ddl.statements import shortened
from replicator.postgres.session.connect import Connection
from replicator.settings import Settings
from replicator.switchover.phases import Phase

WAY_BACK: Final = "way back"
LONGEST = 500
"""Characters about one fact, which may be about thousands of tables: `replicator check` says all."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One condition."""

    name: str
    ok: bool
    detail: str


async def look_at_gates(
    pipeline: Pipeline,
    phase: Phase,
    settings: Settings,
    target: Connection,
    opposite: Pipeline | None = None,
    *,
    trouble: str | None = None,
) -> list[Gate]:
    """All gates as they are now. ``target`` is a connection to the pipeline's target, in autocommit mode.

    :param opposite: the other pipeline, while both schemas take writes.
    :param trouble: why nothing is written, if that is known: then the lag is about to grow.
    """
    gates = await _look_at_gates(pipeline, phase, settings, target, opposite)
    return [Gate(name="lag", ok=False, detail=trouble) if each.name == "lag" and trouble else each for each in gates]


async def _look_at_gates(
    pipeline: Pipeline, phase: Phase, settings: Settings, target: Connection, opposite: Pipeline | None
) -> list[Gate]:
    if opposite is not None:
        return [
            _lag_of_both([pipeline, opposite], settings),
            _quarantine_of_both([pipeline, opposite]),
            _definitions(pipeline),
            _ground(pipeline),
        ]
    if pipeline.direction == "reverse":  # the old tables are complete, and have no checks of their own
        return [
            *_way_back(pipeline),
            _lag(pipeline, settings),
            _verified(pipeline),
            await _quarantine(pipeline, target),
            _definitions(pipeline),
            _ground(pipeline),
        ]
    return [
        await _backfill(pipeline, phase, target),
        _lag(pipeline, settings),
        _verified(pipeline),
        await _quarantine(pipeline, target),
        await _schema(pipeline, target),
        await _checks(pipeline, phase, target),
        _definitions(pipeline),
        _ground(pipeline),
    ]


def _way_back(pipeline: Pipeline) -> list[Gate]:
    """Without reverse transforms every other gate of a rollback is open: there is nothing to be behind with."""
    if pipeline.context.plan.transforms:
        return []
    return [Gate(name=WAY_BACK, ok=False, detail=f"{NO_WAY_BACK[0].lower()}{NO_WAY_BACK[1:]}")]


async def _backfill(pipeline: Pipeline, phase: Phase, target: Connection) -> Gate:
    if phase not in (Phase.NEW, Phase.BACKFILL):
        return Gate(name="backfill", ok=True, detail="all rows are copied, and the consistent point is passed")
    sources = await backfill_progress(target, pipeline.direction)
    rows, expected = sum(each.rows for each in sources), sum(each.expected for each in sources)
    return Gate(name="backfill", ok=False, detail=f"{rows:,} of about {expected:,} rows are copied")


def _lag(pipeline: Pipeline, settings: Settings) -> Gate:
    """How long writers would wait until all is applied. The bytes of the log say nothing of that: most are others'."""
    lag = pipeline.monitor.lag
    if lag.seconds is None or lag.age is None:
        return Gate(name="lag", ok=False, detail="not measured yet")
    if lag.age > GAP_SECONDS:
        return Gate(name="lag", ok=False, detail=f"not measured for {lag.age:.0f} s: the source does not answer")
    wanted = f"wanted: below {low_lag(settings):g} s for {settings.ready_for:g} s"
    ok = lag.seconds <= low_lag(settings) and lag.low_for >= settings.ready_for
    slow = f"; {pipeline.slow}" if pipeline.slow and not ok else ""
    detail = f"{lag.seconds:.1f} s behind, below the limit for {lag.low_for:.0f} s; {wanted}{slow}"
    return Gate(name="lag", ok=ok, detail=detail)


def _lag_of_both(pipelines: list[Pipeline], settings: Settings) -> Gate:
    gates = [(each.direction, _lag(each, settings)) for each in pipelines]
    detail = "; ".join(f"{direction}: {gate.detail}" for direction, gate in gates)
    return Gate(name="lag", ok=all(gate.ok for _, gate in gates), detail=detail)


def _quarantine_of_both(pipelines: list[Pipeline]) -> Gate:
    found = [f"{each.direction}: {len(each.context.quarantined):,}" for each in pipelines if each.context.quarantined]
    if not found:
        return Gate(name="quarantine", ok=True, detail="empty, both ways")
    return Gate(name="quarantine", ok=False, detail=f"{', '.join(found)} rows; mend the rows or the transforms")


def _verified(pipeline: Pipeline) -> Gate:
    found = pipeline.verifier.standing
    return Gate(name="verified", ok=found.ok, detail=found.text)


async def _quarantine(pipeline: Pipeline, target: Connection) -> Gate:
    counts = await count_entries(target, pipeline=pipeline.direction, state="standing")
    if counts:  # these rows are not as they should be, and a cutover would make that final. guard: QUARANTINE_SHUTS
        listed = ", ".join(f"{transform}: {count:,}" for transform, count in counts.items())
        return Gate(name="quarantine", ok=False, detail=f"{listed}; see `replicator quarantine list`")
    discarded = sum((await count_entries(target, pipeline=pipeline.direction, state="discarded")).values())
    return Gate(name="quarantine", ok=True, detail=f"empty, save for {discarded:,} discarded" if discarded else "empty")


def _definitions(pipeline: Pipeline) -> Gate:
    """A column that has come since the start is left behind, until the migration says what becomes of it."""
    return _facts(pipeline, "definitions", "the migration accounts for each column")


def _ground(pipeline: Pipeline) -> Gate:
    return _facts(pipeline, "ground", "the tables are what they must be")


def _facts(pipeline: Pipeline, name: str, fine: str) -> Gate:
    wrong = [each for each in pipeline.monitor.wrong if each.gate == name]
    if not wrong:
        return Gate(name=name, ok=True, detail=fine)
    said = "; ".join(shortened(f"{each.problem} {each.remedy}", LONGEST) for each in wrong)
    return Gate(name=name, ok=False, detail=said)


async def _schema(pipeline: Pipeline, target: Connection) -> Gate:
    if pipeline.direction == "reverse":  # what is not valid there has not been before, either
        return Gate(name="schema", ok=True, detail="the old tables are as the application has made them")
    invalid = await invalid_objects(target, pipeline.context.plan.target_schema)
    if invalid:
        return Gate(name="schema", ok=False, detail=f"not valid: {', '.join(invalid)}")
    return Gate(name="schema", ok=True, detail="every index and constraint is valid")


async def _checks(pipeline: Pipeline, phase: Phase, target: Connection) -> Gate:
    if phase in (Phase.NEW, Phase.BACKFILL, Phase.BUILD):
        return Gate(name="checks", ok=False, detail="the new schema is not complete yet")
    failing = await failing_checks(target, check_queries(pipeline.context.plan.migration))
    if failing:
        return Gate(name="checks", ok=False, detail=f"sql/checks return rows: {', '.join(failing)}")
    return Gate(name="checks", ok=True, detail="no query in sql/checks returns a row")
