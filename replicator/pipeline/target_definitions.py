"""Whether target tables are still what the daemon has written to: what others do to them there no stream tells of."""

from collections.abc import Iterable, Mapping

from replicator.core.tables import Table
from replicator.errors import DefinitionError
from replicator.postgres.catalog.fingerprints import Definition, may_have_changed, read_definitions
from replicator.postgres.guarding.guarded import guard_versions
from replicator.postgres.rows.context import Context
from replicator.postgres.session.connect import Connection
from replicator.runtime.log import get_logger

log = get_logger("definitions")

AGAIN = "Run `replicator check`, then start the daemon again: it compares all rows, and says which are missing."


class TargetDefinitions:
    """One pipeline's target tables, as they were at the last look.

    Nothing is stored: a daemon that starts compares all rows in any case before ownership moves.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: Mapping[str, Definition] = {}
        self._guards: Mapping[int, str] = {}
        self._keys: dict[str, tuple[int, ...]] = {}
        """The primary keys that there were first; while one is gone, the fact of it shuts the gate."""

    async def look(self, target: Connection) -> None:
        """Have all rows compared again that lead to what has changed since the last look.

        A partition is dropped with its rows, a column is renamed, made anew or rewritten, a guard is switched off and
        on again in one transaction: then what was compared before says nothing any more.

        :param target: in autocommit mode, or in a transaction that keeps all others from the tables.
        :raises DefinitionError: a table is another one, or its columns have other types.
        """
        if self._context.shadow or self._context.policy.both_write:
            self._known, self._guards = {}, {}  # the application writes there; the opposite pipeline watches them
            return
        plan = self._context.plan
        tables = {each.declared: each for each in plan.targets}
        now = await read_definitions(target, plan.target_schema, tables, "")
        guards = await guard_versions(target, [each.oid for each in now.values()])
        for name, each in now.items():
            self._keys.setdefault(name, each.key)
            if each.key not in ((), self._keys[name]):
                raise DefinitionError(f"The primary key of {tables[name].name} has changed.", AGAIN)
        changed = {name for name, was in self._known.items() if _changed(tables[name], was, now.get(name))}
        if self._guards.items() - guards.items():  # one that is gone, too; a partition's comes later than its table
            changed = set(tables)
        self._known, self._guards = now, guards
        if changed:
            self._context.suspect(self._leading_to(changed))
            log.warning(
                "target tables were altered, or open to others: all that leads to them is compared again, and mended",
                tables=sorted(changed),
            )

    def without_place(self) -> list[str]:
        """The columns that the targets of copies have, and that these would find no place for on the way back."""
        plan, found = self._context.plan, []
        for copy in plan.migration.copies if plan.direction == "forward" else ():
            old, new = plan.source_tables.get(copy.source), self._known.get(copy.into)
            if copy.way_back and old is not None and new is not None:
                placed = {copy.new_name(column) for column in old.by_name} | set(copy.add)
                names = [each.name for each in new.columns.values()]
                found += [f"{plan.target_schema}.{copy.into}.{name}" for name in names if name not in placed]
        return found

    def _leading_to(self, targets: Iterable[str]) -> set[str]:
        """The source tables that give these targets' rows."""
        plan, names = self._context.plan, set(targets)
        sources = {each.source for each in plan.transforms if each.target.declared in names}
        return {
            table
            for table in plan.watched
            if table in sources or any(each.source in sources for each in plan.dependencies.get(table, ()))
        }


def _changed(table: Table, was: Definition, now: Definition | None) -> bool:
    if now is None:
        raise DefinitionError(f"The target table {table.name} is gone.", AGAIN)
    if now.oid != was.oid:  # nothing guards it, and what it holds is anybody's guess
        raise DefinitionError(f"The target table {table.name} is not the one of before: it was made anew.", AGAIN)
    types = {each.name: (each.type_oid, each.spelt, each.collation) for each in now.columns.values()}
    for each in was.columns.values():
        if each.name in types and types[each.name] != (each.type_oid, each.spelt, each.collation):
            raise DefinitionError(f"The type of {table.name}.{each.name} has changed.", AGAIN)
    return now.key != was.key or may_have_changed(was, now)
