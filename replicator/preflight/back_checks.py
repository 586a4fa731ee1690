"""Checks of the way back that need no row of the new tables: whether the old ones take what they hold."""

from collections.abc import Mapping
from dataclasses import dataclass

from replicator.core.tables import Table
from replicator.postgres.trying.readmission import Refused
from replicator.preflight.finding import Verdict, failed, listed, passed, warned

NOT_FOUND = ("42P01", "42883", "42704", "3F000")
"""A function looks for a table, a function, a type or a schema where it is not."""

BLIND = (
    "A function in a constraint, a domain, an index or a generated column finds nothing by its name alone: the "
    "path is pg_catalog. Let it bring its own: ALTER FUNCTION ... SET search_path = public, pg_temp;"
)


@dataclass(frozen=True)
class OwnRowsSubject:
    """The old tables that refuse some of their own rows from a session of the daemon's."""

    refused: Mapping[Table, Refused]
    strict: bool
    """Before the first start; later it is told, for the daemon is to go on."""


def own_rows(subject: OwnRowsSubject) -> Verdict:
    """Each row that the application writes after the cutover would be quarantined: there would be no rollback."""
    if not subject.refused:
        return passed("the old tables take their own rows")
    lines = [
        f"{table.name} refuses {each.rows} of {each.tried} of its own rows, first: {each.why.problem}"
        for table, each in subject.refused.items()
    ]
    lost = any(each.why.sqlstate in NOT_FOUND for each in subject.refused.values())
    remedy = BLIND if lost else "Mend these rows, or what refuses them: NOT VALID refuses a row that is written again."
    severe = subject.strict and any(each.all for each in subject.refused.values())
    problem = f"{listed(lines)} After the cutover the way back would be refused too."
    return failed(problem, remedy) if severe else warned(problem, remedy)
