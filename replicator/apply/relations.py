"""What each relation name in the log stands for: a table that matters, a partition of one, or nothing of ours."""

from collections.abc import Iterable, Mapping

from replicator.core.changes import Change, RelationName
from replicator.core.tables import Name, Table
from replicator.postgres.catalog.catalog import partition_roots
from replicator.postgres.rows.context import Context
from replicator.postgres.session.connect import Connection


class Relations:
    """Asks the source once for each name, and for all that are new in a batch together."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.known: dict[RelationName, Table | None] = {}
        self.resolved: dict[RelationName, Table] = {}
        """Those of partitions that were asked about since ``met`` was last called."""
        self.forget()

    def forget(self) -> None:
        """Ask again: partitions have come or gone."""
        watched = self._context.plan.watched.values()
        self.known = {RelationName.of(table.name): table for table in watched}

    async def resolve(self, changes: Iterable[Change], reader: Connection) -> Mapping[RelationName, Table | None]:
        """What the names of these changes stand for: a partition may be younger than the daemon.

        All are in what this returns, and stay there while they are written, whatever is forgotten meanwhile.
        """
        known = self.known
        unknown = {change.relation for change in changes} - known.keys()
        if not unknown:
            return known
        names = [Name(schema=schema, table=table) for schema, table in unknown]
        roots = await partition_roots(reader, names)
        watched = {table.name: table for table in self._context.plan.watched.values()}
        for name in names:
            table = known[RelationName.of(name)] = watched.get(roots.get(name, name))
            if table is not None and table.name != name:
                self.resolved[RelationName.of(name)] = table
        return known

    def met(self) -> dict[RelationName, Table]:
        """The partitions that changes have come from for the first time since the last call."""
        resolved, self.resolved = self.resolved, {}
        return resolved
