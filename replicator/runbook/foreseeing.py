"""What a cutover would do, found out without a daemon, and with the team's own statements tried."""

from replicator.errors import MigrationError
from replicator.mapping.plan import Plan
from replicator.postgres.control.ownership import same_database
from replicator.postgres.ddl.switching import try_switching
from replicator.postgres.session.connect import Connection, connection
from replicator.preflight.consequences import Consequences, Foresight
from replicator.settings import Settings


async def foresee(
    settings: Settings, target: Connection, plan: Plan, back: Plan | None, notes: list[str]
) -> Consequences:
    """Try the team's own statements, and look what a cutover does then to what hangs on the old tables.

    :param target: in the transaction in which the new tables are; it is rolled back, and until then it holds the locks
        of the statements.
    :param notes: is extended by what could not be tried.
    :raises MigrationError: a statement in sql/cutover is wrong.
    """
    async with connection(settings.source, "try catalogue") as source:
        together = await same_database(source, target)
        foresight = Foresight(
            migration=plan.migration,
            forward=plan,
            reverse=back,
            together=together,
            most_seconds=settings.max_write_pause,
        )
        old = target if together else source
        found: list[Consequences] = []

        async def look() -> None:
            found.append(await foresight.look(old, target))

        trial = await try_switching(target, plan.migration, look)
        if trial.problem and not trial.perhaps:
            raise MigrationError(trial.problem, trial.remedy)
        if trial.problem:
            notes.append(f"{trial.problem} That may be otherwise at the cutover.")
        if not found:
            await look()
        return found[-1]
