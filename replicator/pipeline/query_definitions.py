"""Whether the migration's queries still mean what they did: a view or a function in them may be replaced."""

from replicator.errors import DefinitionError, RetryableError
from replicator.postgres.rows.context import Context
from replicator.postgres.session.connect import Connection
from replicator.postgres.trying.underlying import Underlying, read_underlying, read_versions
from replicator.runtime.log import get_logger

log = get_logger("definitions")


class QueryDefinitions:
    """One pipeline's queries, and what they stood on at the last look.

    Nothing is stored: a daemon that starts compares all rows in any case before ownership moves.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[str, Underlying] = {}

    async def look(self, source: Connection) -> None:
        """Have all rows of a query compared again when a view or a function that it calls has been replaced.

        No table of it has changed then, and the log has nothing.

        :raises DefinitionError: by that, the query reads a table whose changes are not followed.
        """
        for name, each in self._context.plan.sources.items():
            if each.query is None:
                continue
            known = self._known.get(name)
            if known is not None and await read_versions(source, known.versions) == known.versions:
                continue
            if known is not None:
                self._context.suspect(self._tables_of(name))
                log.warning(
                    "a view or a function that a query reads has changed: its rows are compared again", query=name
                )
            try:
                now = await read_underlying(source, each.query)
            except RetryableError:  # somebody keeps all others from a table: at the next look
                continue
            followed = {table.name for table in self._context.plan.watched.values()}
            if known is not None and (
                missed := {table for table in now.tables if table.schema != "pg_catalog"} - followed
            ):
                listed = ", ".join(sorted(map(str, missed)))
                raise DefinitionError(
                    f"The query {name} reads {listed} since a view or a function in it was replaced: changes of these "
                    "tables would be missed.",
                    "Give it back as it was, or name these tables in depends_on=. Then run `replicator check`, and "
                    "start the daemon again.",
                )
            self._known[name] = now

    def _tables_of(self, source: str) -> set[str]:
        plan = self._context.plan
        return {
            table
            for table, dependencies in plan.dependencies.items()
            if any(each.source == source for each in dependencies)
        }
