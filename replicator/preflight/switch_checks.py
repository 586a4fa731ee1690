"""What the cutover will meet, and do: foreign keys, locks, the team's own statements, what hangs on the old tables."""

from replicator.mapping.plan import places_of, taking_part
from replicator.postgres.catalog import edges
from replicator.postgres.control.ownership import all_names
from replicator.postgres.ddl.switching import BEFORE, try_switching
from replicator.preflight import edge_checks, hanging, lock_checks, lost, migration_checks
from replicator.preflight.consequences import Consequences, Foresight
from replicator.preflight.migration_checks import SwitchingSubject
from replicator.preflight.sides import Side
from replicator.preflight.whole import WholeReport


async def check_switching(report: WholeReport, source: Side, target: Side, foresight: Foresight) -> None:
    """What would keep the cutover from happening, at night; or the application's statements from running.

    The new tables are there, in the transaction of the target's connection.
    """
    migration, new, together = foresight.migration, target.connection, foresight.together
    taking = taking_part(foresight.forward, foresight.reverse)
    tables = {side: all_names(each) for side, each in taking.items()}
    old = new if together else source.connection
    for label, room in await lock_checks.read_rooms(old, new, tables, one_server=source.shares_server(target)):
        report.judge(label, (lock_checks.locks,), room)
    plans: list[edges.Plan] = []
    found: list[Consequences] = []

    async def between() -> None:
        plans.append(await edge_checks.read_old(old, tables, places_of(foresight.forward), together=together))
        # What the team's own statements turn to the new tables does not hang on the old ones any more.
        found.append(await foresight.look(old, new, plans[0]))

    if target.phase in BEFORE:
        there = await edge_checks.read_new(new, tables, migration.new)
        report.judge("foreign_keys", (edge_checks.until_the_cutover,), there)
    with report.stage("migration.cutover_statements"):
        trial = await try_switching(new, migration, between)
        subject = SwitchingSubject(migration, trial, together=together)
        report.judge("migration", (migration_checks.cutover_statements,), subject)
        for each in plans:
            report.judge("foreign_keys", (edge_checks.at_the_cutover,), each)
    with report.stage("hanging"):
        report.consequences = found[0] if found else await foresight.look(old, new)
        hanging.tell(report, report.consequences.hanging, foresight.closing, foresight.scene)
        lost.tell(report, [each for each in report.consequences.lost if not each.security])
