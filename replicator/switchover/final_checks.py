"""What is looked at once more while the writers wait: whatever it finds, they go on and nothing has moved."""

from collections.abc import Awaitable, Callable

from replicator.errors import NotReadyError
from replicator.postgres.ddl.ddl import check_queries, failing_checks
from replicator.postgres.rows.sequences import set_sequences
from replicator.postgres.session.connect import Connection
from replicator.switchover.closing import see_that_all_is_closed
from replicator.switchover.phases import Transition
from replicator.switchover.request import Attempt, SwitchoverRequest
from replicator.verify import Divergence, advice, sentence


async def check_under_lock(
    attempt: Attempt, target: Connection, diverging: Callable[[], Awaitable[list[Divergence]]]
) -> None:
    """All that must hold as ownership moves; sets the target's sequences, which no change in the log carries.

    :param target: to the target: a session that the held locks do not keep waiting.
    :param diverging: compares what waits to be compared, and returns what differs.
    :raises NotReadyError: what is not as it must be, and what to do.
    :raises DefinitionError: a table has changed so that it cannot be followed.
    """
    request = attempt.request
    pipeline = request.pipeline
    attempt.at("definitions")
    await pipeline.look_at_definitions()
    attempt.at("guards of the tables that open")
    await see_that_nothing_was_unseen(request, target)
    attempt.at("ground")
    await pipeline.look_at_ground(target)
    attempt.at("final check")
    # With the writers held: what they write after it would not be compared. guard: FINAL_HELD, FINDINGS
    if divergences := await diverging():
        raise NotReadyError(
            f"The final check found {len(divergences)} rows that diverge; the writers went on.",
            sentence(advice(divergences)),
        )
    if pipeline.context.quarantined:  # since the gates were looked at. guard: QUARANTINE_SHUTS
        raise NotReadyError("A row went into quarantine; the writers went on.", "See `replicator quarantine list`.")
    attempt.at("sequences")
    await set_sequences(target, request.plan.targets)
    attempt.at("checks")
    if pipeline.direction == "forward":
        failing = await failing_checks(target, check_queries(request.plan.migration))
        if failing:
            raise NotReadyError(f"sql/checks return rows: {', '.join(failing)}; the writers went on.")


async def see_that_nothing_was_unseen(request: SwitchoverRequest, connection: Connection) -> None:
    """Raise NotReadyError when rows may have changed past the log, or past the guards, and are not compared yet.

    The looks are seconds apart: a trigger may have acted since, or somebody has written. What waits to be compared is
    asked for last: what was closed again in this moment had been noted before.
    """
    try:
        await see_that_all_is_closed(connection)  # guard: CLOSED_FIRST
    except NotReadyError:
        request.pipeline.compare_all()
        raise
    if request.pipeline.context.unseen:  # rows that somebody wrote there would become final. guard: SUSPECT_SHUTS
        raise NotReadyError(
            "Rows may have changed past the log: a table was rewritten or truncated, a partition came or went, or "
            "a guard was switched off. The writers went on.",
            _when_unseen(request.move),
        )


def _when_unseen(move: Transition) -> str:
    if not move.from_both:
        return "All rows of it are compared again; then try again."
    # This move would take what the log has not told for wrong.
    other, then = {
        "cutover": ("`replicator rollback`", "Then all rows are compared; cut over again when they are."),
        "rollback": ("`replicator cutover --complete`", "Then all rows are compared; roll back when they are."),
    }[move.name]
    return (
        "All rows of it are compared again, and mended; then try again. "
        f"Or let the schema that it is of own the data: {other}. {then}"
    )
