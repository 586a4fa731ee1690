"""Whether source tables are still what they were: what cannot be gone on with stops the daemon, the rest is told."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from replicator.core.changes import RelationDefinition, RelationName
from replicator.core.tables import Table
from replicator.errors import BeginAgainError, DefinitionError
from replicator.mapping.plan import Plan, identifying_columns
from replicator.postgres.catalog.fingerprints import (
    Definition,
    account_for,
    accounted_columns,
    as_planned,
    may_have_changed,
    read_definitions,
    store_definitions,
    stored_definitions,
)
from replicator.postgres.rows.context import Context
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.wire.slots import AGAIN as ANEW
from replicator.preflight.accounting import newly_accounted
from replicator.runtime.log import get_logger

log = get_logger("definitions")

SUSPECTED = "suspected"
"""A generation that no table has."""
AGAIN = "Run `replicator check`, then start the daemon again: it goes on where it stopped."


@dataclass(frozen=True)
class Noticed:
    """The tables that are to be compared, as they were then, and how many breaches were known of."""

    definitions: Mapping[str, Definition]
    breaches: int

    def __bool__(self) -> bool:
        return bool(self.definitions)


class Definitions:
    """One pipeline's source tables: as they are, and as they were when all their rows were last known to have come."""

    def __init__(self, context: Context, plugin: str, publication: str) -> None:
        self._context = context
        self._publication = publication if plugin == "pgoutput" else ""
        self._partitions_by_name = plugin != "pgoutput"
        self._known: dict[str, Definition] = {}
        self._now: dict[str, Definition] = {}
        self._accounted: dict[str, set[str]] = {}
        self._newly: dict[str, set[str]] = {}
        """Columns that the migration accounts for since this start: stored when all rows have been compared."""
        self._remembered: set[str] = set()
        """The tables that are stored as to be compared."""
        self._in_doubt = False
        """A fact of the ground is wrong."""
        self._told: set[tuple[str, int]] = set()
        """How often something has changed past the log that no definition shows."""

    @property
    def _plan(self) -> Plan:
        return self._context.plan

    async def open(self, source: Connection) -> None:
        """Compare with what is stored, from before the daemon started. Raises DefinitionError."""
        now = await self.read(source)
        async with connection(self._context.target_dsn, "definitions") as target:
            self._known = await stored_definitions(target, self._context.direction)
            if new := {name: each for name, each in now.items() if name not in self._known}:
                self._known |= (planned := as_planned(self._plan, new))
                await store_definitions(target, self._context.direction, planned)
            self._accounted = await accounted_columns(target, self._context.direction)
        self._newly = await newly_accounted(source, self._plan, self._accounted)
        self._compare(now)
        for name, each in now.items():
            if name in self._newly or each.columns.keys() != self._known[name].columns.keys():
                self._context.unseen.add(name)  # a transform may see columns that it has not seen before
        self._now = now
        self._tell()

    async def look(self, source: Connection) -> bool:
        """Compare with the catalogue as it is; gives whether rows may have changed past the log since the last look.

        Raises DefinitionError for what cannot be gone on with.
        """
        now = await self.read(source)
        before, changed = self._now, self._compare(now)
        self._now = now
        new = {name for name in changed if now[name] != before.get(name)}
        if new:
            self._tell()
        await self.remember()
        return bool(new)

    async def remember(self) -> None:
        """Store which tables are to be compared: the next daemon may find them as they were, and would not know."""
        await self._remember(self._context.unseen)

    async def _remember(self, tables: AbstractSet[str]) -> None:
        if new := tables - self._remembered:
            async with connection(self._context.target_dsn, "definitions") as target:
                suspected = {name: replace(self._known[name], generation=SUSPECTED) for name in new}
                await store_definitions(target, self._context.direction, suspected)
            self._remembered |= new

    async def doubt(self, *, wrong: bool) -> None:
        """Have all rows compared again when no fact of the ground is wrong any more.

        Meanwhile rows may be read, or hidden, that no definition shows afterwards: those of a child that has
        inherited from a table and is gone, for one. That it was so is stored: the next daemon may find all well.
        """
        if wrong:
            self._in_doubt = True
            await self._remember(self._now.keys())
        elif self._in_doubt:
            self._in_doubt = False
            self.suspect()

    def unaccounted(self) -> list[str]:
        """The columns that have come since the first start, and that the migration says nothing about."""
        return [
            f"{self._plan.watched[name].name}.{column.name}"
            for name, each in self._now.items()
            for column in each.columns.values()
            if column.name not in self._accounted.get(name, set()) | self._newly.get(name, set())
        ]

    def noticed(self) -> Noticed:
        """The tables whose rows may have changed past the log, as they are now."""
        return Noticed({name: self._now[name] for name in self._context.unseen}, self._context.breaches)

    def suspect(self) -> None:
        """Have all rows compared again: something that the log does not tell of may have changed the target's."""
        self._context.suspect(self._now)

    def met(self, partitions: Mapping[RelationName, Table]) -> bool:
        """The stream has brought rows of these partitions: whether the last look has not seen them all.

        Then all rows of the table are to be compared.

        Such a partition may be gone before the next look, with its rows, and then the catalogue says nothing of it.
        """
        young = {
            table.declared
            for name, table in partitions.items()
            if table.declared in self._now and name not in self._now[table.declared].partitions
        }
        if young:
            self._context.suspect(young)
        return bool(young)

    def parted(self) -> set[str]:
        """The tables that a partition or an heir has left since all their rows were last compared."""
        return {name for name, now in self._now.items() if self._known[name].files.keys() - now.files.keys()}

    async def settle(self, noticed: Noticed) -> None:
        """All rows of these tables have been compared and mended since they were noticed so."""
        known = as_planned(self._plan, noticed.definitions)
        async with connection(self._context.target_dsn, "definitions") as target:
            if not self._in_doubt:
                await store_definitions(target, self._context.direction, known)
                self._remembered -= known.keys()
            newly = {name: columns for name, columns in self._newly.items() if name in known}
            await account_for(target, self._context.direction, newly)
        for name, columns in newly.items():
            self._accounted.setdefault(name, set()).update(columns)
            del self._newly[name]
        self._known |= known
        if noticed.breaches == self._context.breaches:  # else rows may have changed that had been compared already
            self._context.unseen -= {name for name, each in noticed.definitions.items() if each == self._now[name]}

    async def carry(self, holder: Connection, before: Mapping[str, Definition]) -> None:
        """Store that what has changed since ``before`` is our own doing, in the transaction that did it.

        :param holder: its transaction keeps all others from the tables, and the target is the same database.
        """
        now, stored = await self.read(holder), await stored_definitions(holder, self._context.direction)
        same = {name for name, each in stored.items() if each.generation == before[name].generation}
        carried = {
            name: replace(stored[name], generation=now[name].generation, partitions=now[name].partitions)
            for name in same
        }
        await store_definitions(holder, self._context.direction, carried)

    async def read(self, source: Connection) -> dict[str, Definition]:
        """The source tables as they are now."""
        return await read_definitions(source, self._plan.source_schema, self._plan.watched, self._publication)

    def _compare(self, now: Mapping[str, Definition]) -> set[str]:
        changed = set()
        for name, table in self._plan.watched.items():
            if name not in now:
                raise DefinitionError(f"The source table {table.name} is gone.", ANEW)
            self._check(table, self._known[name], now[name])
            if may_have_changed(self._known[name], now[name]):
                changed.add(name)
        self._context.unseen |= changed
        return changed

    def _check(self, table: Table, known: Definition, now: Definition) -> None:
        if now.oid != known.oid:
            raise DefinitionError(f"The source table {table.name} is not the one of before: it was made anew.", ANEW)
        if now.key != known.key:
            raise DefinitionError(f"The primary key of {table.name} has changed.", ANEW)
        _check_types(table, known, now)
        check_identity(self._plan, table, now.identity)
        if known.published is not None and self._publication and now.published != known.published:
            raise DefinitionError(
                f"The publication {self._publication} does not publish {table.name} any more, or not as before: "
                "changes may be missing.",
                ANEW,
            )
        self._check_columns(table, now)
        strangers = set(now.partitions) - {(leaf.schema, leaf.table) for leaf in table.leaves}
        asked_for = {each.name.schema for each in self._plan.watched.values()}  # whole: see ``make_decoder``
        if self._partitions_by_name and any(schema not in asked_for for schema, _ in strangers):
            raise BeginAgainError(
                f"The table {table.name} has a new partition in another schema, which the stream is not asked for.",
                "The daemon begins again by itself, and asks for it; then it compares all rows of the table.",
            )

    def _check_columns(self, table: Table, now: Definition) -> None:
        names = {each.name for each in now.columns.values()}
        for column in table.columns:
            if column.name not in names:
                raise DefinitionError(f"The column {table.name}.{column.name} is gone.", AGAIN)
        for number, each in now.columns.items():
            if each.name not in table.by_name and (str(table.name), number) not in self._told:
                self._told.add((str(table.name), number))
                log.warning(
                    "a new column is left out until the daemon starts again", table=str(table.name), column=each.name
                )

    def _tell(self) -> None:
        if self._context.unseen:
            log.warning(
                "rows may have changed past the log: all are compared again, and mended",
                tables=sorted(self._context.unseen),
            )


def _check_types(table: Table, known: Definition, now: Definition) -> None:
    rewritten = known.files.items() - now.files.items()
    for number, was in known.columns.items():
        column = now.columns.get(number)
        in_key = number in known.key
        if column is None:
            continue
        if column.type_oid != was.type_oid or (in_key and rewritten and column.spelt != was.spelt):
            raise _type_changed(table, column.name)
        if in_key and was.generation and column.collation != was.collation:
            raise DefinitionError(
                f"The collation of {table.name}.{column.name} has changed: other keys may be equal now.", ANEW
            )
    for column in now.columns.values():
        if column.name in table.by_name and table.by_name[column.name].type_oid != column.type_oid:
            raise _type_changed(table, column.name)  # another column has its name now


def check_relation(plan: Plan, definition: RelationDefinition) -> None:
    """Compare with what the stream says. Raises DefinitionError when a type or the identity has changed.

    A column that is gone is told where a row comes without it; one that is new is left out.
    """
    names = {(each.name.schema, each.name.table): each for each in plan.watched.values()}
    table = names.get(definition.relation)
    if table is None:
        return
    for column, oid in definition.columns:
        known = table.by_name.get(column)
        if known is not None and known.type_oid != oid:
            raise _type_changed(table, column)
    if definition.identity is not None:
        check_identity(plan, table, definition.identity)


def check_identity(plan: Plan, table: Table, identity: Iterable[str]) -> None:
    """Raise DefinitionError unless the log names an old row by all that is needed of it."""
    if not identifying_columns(plan, table) <= set(identity):
        raise DefinitionError(
            f"The log does not identify changed rows of {table.name} any more: its replica identity has changed.",
            f"Give it back as it was. Changes may be missing: {ANEW}",
        )


def _type_changed(table: Table, column: str) -> DefinitionError:
    return DefinitionError(f"The type of {table.name}.{column} has changed; its rows were rewritten unseen.", ANEW)
