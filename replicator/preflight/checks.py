"""The whole run: connections and servers first, then databases, then tables and transforms."""

from contextlib import AsyncExitStack
from typing import Final

from replicator.migration import Migration
from replicator.postgres.control.undisturbed import undisturbed
from replicator.preflight.finding import Finding, Verdict, failed, passed
from replicator.preflight.schemas import check_schemas
from replicator.preflight.sides import Side, check_database, check_servers, open_side
from replicator.preflight.whole import WholeReport
from replicator.settings import Settings

TRIES: Final = 4
"""A cutover, a rollback and a second cutover may come in between."""


async def preflight(settings: Settings, migration: Migration) -> list[Finding]:
    """Check everything that can be checked, and change nothing.

    Never raises for what a check can say; a finding with ``fail`` means that the daemon must not start.
    """
    return (await whole_preflight(settings, migration)).findings


async def whole_preflight(settings: Settings, migration: Migration) -> WholeReport:
    """The same, with what hangs on the old tables. Begins anew when ownership has moved meanwhile.

    :raises RetryableError: it moves again and again.
    """
    # A daemon that renames the tables between two of the checks would have the next one fail for no reason.
    return await undisturbed((settings.source, settings.target), lambda: _whole(settings, migration), tries=TRIES)


async def _whole(settings: Settings, migration: Migration) -> WholeReport:
    report = WholeReport()
    async with AsyncExitStack() as stack:
        source = await open_side(report, stack, settings, "source", migration.old)
        target = await open_side(report, stack, settings, "target", migration.new)
        for side in (source, target):
            if side is not None:
                side.begins(migration)
        with report.stage("migration"):
            await _check(report, settings, migration, source, target)
    return report


async def _check(
    report: WholeReport, settings: Settings, migration: Migration, source: Side | None, target: Side | None
) -> None:
    await check_servers(report, settings, source, target)
    if source is not None:
        check_database(report, source, migration)
    if target is not None:
        check_database(report, target, migration, again=source is not None and source.shares_database(target))
    if source is None or target is None or report.failed("source.schema", "target.schema"):
        return
    relation = _relation(migration, source, target)
    report.say("migration.databases", relation)
    if relation.outcome == "pass":
        await check_schemas(report, migration, source, target)


def _relation(migration: Migration, source: Side, target: Side) -> Verdict:
    """The two schemas may be in one database, in two of one server, or on two servers; but they must be two."""
    old, new = migration.old, migration.new
    if not source.shares_server(target):
        return passed(f"{old} and {new} on two servers")
    if not source.shares_database(target):
        return passed(f"{old} and {new} in two databases of one server")
    if old == new:
        return failed(
            f"The old and the new schema are both {old} of the same database.",
            "Correct old= or new= in Migration(...), or REPLICATOR_TARGET_DSN.",
        )
    return passed(f"{old} and {new} in one database")
