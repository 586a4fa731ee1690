"""The daemon: does whatever the phase needs, answers the commands, and resumes after any stop."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from replicator.daemon.hooks import Hooks
from replicator.daemon.report import Reporter
from replicator.daemon.session import Session
from replicator.daemon.waiting import Waiting
from replicator.errors import CheckError, DatabaseError, LeaseError, ReplicatorError, RowError
from replicator.migration import Migration
from replicator.observe.http import HttpServer
from replicator.observe.metrics import Metrics
from replicator.observe.status import process_details
from replicator.postgres.control.control import (
    FINALIZED,
    installed_for,
    journal,
    read_phase,
    unreplicated,
    upgrade_all,
    write_status,
)
from replicator.postgres.control.journal import recorded
from replicator.postgres.session.connect import connection
from replicator.preflight import Finding, preflight
from replicator.runbook import schema
from replicator.runtime.log import get_logger
from replicator.settings import Settings

log = get_logger("daemon")

RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses after a lost connection; the last one goes on for ever."""
TELL_SECONDS = 10.0
EXPLAIN_SECONDS = 30.0


async def run(settings: Settings, migration: Migration, *, stop: asyncio.Event) -> None:
    """Run until ``stop`` is set. Raises ReplicatorError when it cannot go on: with what to do about it.

    A lost connection is waited out, once the daemon has been up.
    """
    if await _is_over(settings, migration):
        log.info("the migration is over: there is nothing left to do")
        return
    # First: to the checks, an older version's slots would be nobody's, and they would say to drop them.
    await upgrade_all((settings.target, settings.source))
    await _refuse_what_cannot_work(settings, migration)
    waiting = Waiting(settings)
    metrics, reporter = Metrics(), Reporter(migration.name, waiting)
    metrics.ready.set_function(lambda: float(reporter.current()["ready"]))  # when it is asked for
    state = _Health(reporter)
    server = HttpServer(
        settings.http_listen, metrics.registry, lambda: dict(reporter.current()), state.health,
        lambda: None if reporter.current()["ready"] else _why_not(reporter),
        [each.strip() for each in (settings.http_hosts or "").split(",")],
        {"/history": reporter.history.samples, "/journal": lambda: reporter.journal},
    )  # fmt: skip
    try:
        server.start()
    except OSError as error:
        raise CheckError(str(error)) from error
    looking_on = asyncio.create_task(waiting.run(), name="waiting")
    try:
        async with Hooks(settings, migration, metrics, reporter.failed) as hooks:
            await _run_and_retry(settings, migration, stop, metrics, reporter, state, hooks)
    finally:
        looking_on.cancel()
        await asyncio.gather(looking_on, return_exceptions=True)
        server.stop()


async def _run_and_retry(
    settings: Settings,
    migration: Migration,
    stop: asyncio.Event,
    metrics: Metrics,
    reporter: Reporter,
    state: "_Health",
    hooks: Hooks,
) -> None:
    tries = 0
    while not stop.is_set():
        session = Session(settings, migration, metrics, reporter, state.is_up, hooks)
        try:
            await session.run(stop)
            await _tell(settings, session, {"reason": "It was told to stop."})
        except ReplicatorError as met:
            error = await _explained(settings, migration, met)
            reporter.failed(error)
            metrics.errors_total.labels(error.kind).inc()
            tries = 0 if session.up.is_set() else tries + 1
            shown = reporter if session.up.is_set() and not isinstance(error, LeaseError) else None
            await _tell(settings, session, {"reason": error.problem, "kind": error.kind}, shown)
            if not error.transient or (tries > len(RETRY_SECONDS) and not state.ever_up):
                raise error from (None if error is met else met)
            state.trouble = str(error)
            pause = RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)]
            log.warning("trying again", seconds=pause, error=str(error))
            try:
                await asyncio.wait_for(stop.wait(), pause)
            except TimeoutError:
                continue


async def _is_over(settings: Settings, migration: Migration) -> bool:
    with contextlib.suppress(ReplicatorError):  # the checks that follow say more of what is wrong
        async with connection(settings.target, "daemon") as target:
            return await installed_for(target, migration) and await read_phase(target) == FINALIZED
    return False


async def _tell(settings: Settings, session: Session, end: dict[str, str], shown: Reporter | None = None) -> None:
    """Enter a session's end, and store its error where `replicator status` finds it, if the target can be reached."""
    if not session.entered:
        return
    with contextlib.suppress(ReplicatorError, TimeoutError):
        async with asyncio.timeout(TELL_SECONDS), connection(settings.target, "status") as target:
            await unreplicated(target)
            if shown is not None:
                await write_status(target, shown.document)
            await journal(target, "stop", process_details() | end)


async def _explained(settings: Settings, migration: Migration, error: ReplicatorError) -> ReplicatorError:
    """What the checks say of the ground as it is now, where the error only says what a server has refused.

    Anything may have changed since the start; without this, nobody would be told what to change back.
    """
    if error.transient or not (isinstance(error, RowError) or (isinstance(error, DatabaseError) and not error.remedy)):
        return error
    log.error("a server refused what the daemon needs", error=error.problem)
    with contextlib.suppress(ReplicatorError, TimeoutError):
        async with asyncio.timeout(EXPLAIN_SECONDS):
            if (found := _refusal(await preflight(settings, migration))) is not None:
                return found
    return error


async def _refuse_what_cannot_work(settings: Settings, migration: Migration) -> None:
    findings = await preflight(settings, migration)
    for finding in findings:
        if finding.outcome == "warn":
            log.warning("check", name=finding.check, detail=finding.detail, remedy=finding.remedy)
    if (refusal := _refusal(findings)) is not None:
        raise refusal


def _refusal(findings: Sequence[Finding]) -> CheckError | None:
    """Why the daemon must not start, if there is a reason."""
    failed = list(
        dict.fromkeys((each.detail, each.remedy) for each in findings if each.outcome == "fail" and each.refuses)
    )
    if len(failed) < 2:
        return CheckError(*failed[0]) if failed else None
    return CheckError("\n".join(f"{detail} {remedy}".strip() for detail, remedy in failed), "See `replicator check`.")


def _why_not(reporter: Reporter) -> str:
    shut = [gate for gate in reporter.current()["gates"] if not gate["ok"]]
    listed = "; ".join(f"{gate['name']}: {gate['detail']}" for gate in shut)
    return listed or f"the phase is {reporter.document['phase']}"


class _Health:
    """What /healthz says."""

    def __init__(self, reporter: Reporter) -> None:
        self.trouble: str | None = None
        self.ever_up = False
        self._reporter = reporter

    def is_up(self) -> None:
        self.trouble, self.ever_up = None, True

    def health(self) -> str | None:
        return self.trouble or self._reporter.trouble


# ---- what the commands need without a running daemon


async def schema_statements(settings: Settings, migration: Migration, parts: list[str]) -> list[str]:
    """The statements of these parts of the new schema; of what is due when none is named."""
    return schema.statements(migration, await schema.chosen_parts(settings, migration, parts))


async def build_schema(
    settings: Settings, migration: Migration, parts: list[str], report: Callable[[str], None]
) -> list[str]:
    """Run what is not there yet of these parts of the new schema, or of what is due; gives what was run."""
    async with recorded(settings.target, "schema", {"parts": parts}) as entry:
        done = await schema.build(settings, migration, await schema.chosen_parts(settings, migration, parts), report)
        entry["statements"] = len(done)
    return done
