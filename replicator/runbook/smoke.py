"""After the cutover: whether the new tables serve, the old ones refuse writes, and the way back is open."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any
from uuid import uuid4

from replicator.core.tables import Table
from replicator.errors import NotReadyError, ReplicatorError
from replicator.migration import Migration
from replicator.pipeline.setup import all_tables, read_plan
from replicator.postgres.control.control import daemon_alive, installed, read_phase, read_status
from replicator.postgres.control.progress import read_progress
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.control.undisturbed import undisturbed
from replicator.postgres.ddl.ddl import statements
from replicator.postgres.ddl.rewriting import rewritten
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.trying.probes import time_query
from replicator.postgres.trying.smoke_statements import owner_says, refuses_writes, send_marker, write_a_row
from replicator.preflight.finding import Finding, Verdict, counted, failed, listed, passed, warned
from replicator.settings import Settings
from replicator.switchover.phases import Phase
from replicator.switchover.way_back import AFTER, way_back

FLOW_SECONDS = 30.0
LOOK_SECONDS = 0.2

Tell = Callable[[str], None]


async def smoke(settings: Settings, migration: Migration, tell: Tell) -> list[Finding]:
    """All checks, a finding each. Raises NotReadyError before the cutover, and when the migration is over."""
    work = partial(_smoke, settings, migration, tell)
    return await undisturbed((settings.source, settings.target), work)


async def _smoke(settings: Settings, migration: Migration, tell: Tell) -> list[Finding]:
    async with connection(settings.source, "smoke") as old, connection(settings.target, "smoke") as new:
        phase = await read_phase(new) if await installed(new) else None
        _require_soak(phase)
        found = [_finding("owner", await _owner(migration, old, new))]
        tell("probes")
        found += await _probes(migration, new)
        tell("writes")
        for table in (await read_plan(settings, migration, "forward")).targets:
            found.append(_finding(f"write {table.declared}", await _write(new, table)))
        tell("guards")
        found.append(_finding("guard", await _guards(settings, migration, old)))
        tell("the way back")
        found.append(_finding("reverse", await _reverse(migration, old, new)))
    return found


def _require_soak(phase: str | None) -> None:
    if phase is None:
        raise NotReadyError("No migration has been started here.", "Try it again later: this is for after the cutover.")
    if phase == Phase.FINALIZED:
        raise NotReadyError(
            "The migration is over: nothing guards the old tables, and nothing follows any more.",
            "There is nothing left to try.",
        )
    if phase != Phase.SOAK:
        raise NotReadyError(
            f"There is nothing to try in the phase {phase}: this is for after the cutover.",
            "`replicator cutover` moves the application over.",
        )


def _finding(check: str, verdict: Verdict) -> Finding:
    return Finding(check, verdict.outcome, verdict.detail, verdict.remedy)


async def _owner(migration: Migration, old: Connection, new: Connection) -> Verdict:
    """Each database says it to those who ask."""
    said = {await owner_says(old), await owner_says(new)}
    schema = (await read_places(new)).schema(migration.new)
    if said == {("new", schema)}:
        return passed(f"the schema {schema} owns the data, and applications are told so")
    return failed(
        f"The databases tell applications: {listed(sorted(schema for _, schema in said))}.",
        "See that the daemon runs: it tells the other database. `replicator status` says who owns the data.",
    )


async def _probes(migration: Migration, new: Connection) -> list[Finding]:
    folder = migration.folder() / "probes" / "new"
    queries = {file.stem: found[0] for file in sorted(folder.glob("*.sql")) if (found := statements(file))}
    if not queries:
        verdict = warned(f"there is no query in {folder}", "Write there what the application asks most.")
        return [_finding("probes", verdict)]
    tried, places = [], await read_places(new)
    for name, query in queries.items():
        try:
            verdict = passed(f"answered in {await time_query(new, rewritten(query, places)):.1f} ms")
        except ReplicatorError as error:
            verdict = failed(error.problem, "Mend the table, the privilege or the query.")
        tried.append(_finding(f"probe {name}", verdict))
    return tried


async def _write(new: Connection, table: Table) -> Verdict:
    try:
        rows = await write_a_row(new, table)
    except ReplicatorError as error:
        return failed(
            f"A write to {table.name} is refused: {error.problem}",
            "If that is the guard, start the daemon: it opens the new tables. Else mend what the error names, or "
            "`replicator rollback`.",
        )
    return passed("a row is written over itself; rolled back" if rows else "open for writes; there is no row to try")


async def _guards(settings: Settings, migration: Migration, old: Connection) -> Verdict:
    names = (await all_tables(settings, migration))["old"]
    open_ones, troubles = [], []
    for name in names:
        try:
            if not await refuses_writes(old, name):
                open_ones.append(f'"{name.schema}"."{name.table}"')
        except ReplicatorError as error:
            troubles.append(f"{name}: {error.problem}")
    if open_ones:
        return failed(
            f"Old tables accept writes, which the new ones do not get: {listed(open_ones)}.",
            "Find out who dropped or disabled the trigger replicator_guard, and what was written there since. "
            "To put it back:",
            *(f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER replicator_guard;" for name in open_ones),
        )
    if troubles:
        return failed(" ".join(troubles), "See that the role of the daemon may write to the old tables.")
    return passed(f"{counted(len(names), 'old table')} refuse writes with RP002; rolled back")


async def _document_since_the_cutover(new: Connection) -> Mapping[str, Any] | None:
    """The daemon's status document; None while it is missing, stale, or of a moment before the cutover was done.

    The daemon makes the way back the active pipeline before it stores the new phase. A document of that moment
    names the direction ``reverse`` and still says that the old schema owns the data.
    """
    report = await read_status(new)
    if report is None or not report.fresh:
        return None
    told = report.document["direction"] == "reverse" and report.document["phase"] in AFTER
    return report.document if told else None


async def _rollback(migration: Migration, new: Connection, seconds: float) -> Verdict:
    """Whether the rollback's gates are open: the daemon looks at them, as it does for the rollback itself."""
    came = f"a message came through in {seconds:.1f} s"
    began = monotonic()
    while (document := await _document_since_the_cutover(new)) is None:
        if monotonic() - began > FLOW_SECONDS:
            return failed("The daemon does not report.", "See its log, and its /healthz.")
        await asyncio.sleep(LOOK_SECONDS)
    differing = sum(each["missing"] + each["extra"] + each["different"] for each in document["divergence"])
    phase = str(document["phase"])
    found = way_back(phase, declared=migration.way_back, gates=document["gates"], differing=differing)
    match found.state:
        case "open":
            return passed(f"{came}, and every gate of the rollback is open")
        case "waits":
            return warned(f"{came}. {found.problem}", found.remedy)
        case "none":
            return warned(found.problem, found.remedy)
    return failed(found.problem, found.remedy)


async def _reverse(migration: Migration, old: Connection, new: Connection) -> Verdict:
    """A message goes down the log of the new tables, and the way back stores that it has passed it."""
    if not await daemon_alive(new):
        return failed("No daemon runs: the old tables are not kept in step.", "Start it with `replicator run`.")
    began = monotonic()
    wanted = await send_marker(new, f"smoke {uuid4()}")
    while monotonic() - began < FLOW_SECONDS:
        progress = await read_progress(old, "reverse")
        if progress is not None and progress.applied >= wanted and progress.start_marker is None:
            return await _rollback(migration, new, monotonic() - began)
        await asyncio.sleep(LOOK_SECONDS)
    return failed(
        f"A message did not come through the way back within {FLOW_SECONDS:.0f} s.",
        "`replicator status` shows the lag and the last errors; see the daemon's log.",
    )
