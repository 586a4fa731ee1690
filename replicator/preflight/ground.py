"""What a migration stands on, both sides of it, as the running daemon looks at it."""

import asyncio
from collections.abc import Sequence

from replicator.core.tables import Table
from replicator.migration import Direction, Migration
from replicator.postgres.catalog.inspect import Database, Relation, read_database, read_relations
from replicator.postgres.session.connect import Connection
from replicator.postgres.session.server import Plugin
from replicator.preflight import database_checks, migration_checks, security, write_checks
from replicator.preflight.database_checks import DatabaseSubject
from replicator.preflight.facts import Wrong, wrong
from replicator.preflight.migration_checks import CoverageSubject, read_by, sources_of, written_by
from replicator.preflight.security import security_subject
from replicator.preflight.table_checks import TablesSubject


def tables_subject(
    migration: Migration,
    reads: Direction,
    relations: Sequence[Relation],
    *,
    role: str,
    plugin: Plugin | None,
    tables: Sequence[Table] = (),
) -> TablesSubject:
    """What the migration does with the tables of one side.

    :param reads: the direction that reads them; the other one writes to them.
    """
    writes: Direction = "reverse" if reads == "forward" else "forward"
    return TablesSubject(
        relations=tuple(relations),
        tables=tuple(tables),
        role=role,
        plugin=plugin,
        sources=sources_of(migration, reads),
        read=read_by(migration, reads),
        written=written_by(migration, writes),
        retired=frozenset(migration.retired) if reads == "forward" else frozenset(),
    )


def coverage_subject(migration: Migration, relations: Sequence[Relation]) -> CoverageSubject:
    """The old tables, save for those of extensions."""
    return CoverageSubject(
        migration=migration,
        tables=frozenset(each.table for each in relations if not each.is_leaf and not each.of_extension),
        read=read_by(migration, "forward"),
        written=written_by(migration, "reverse"),
    )


class Ground:
    """The facts of both sides, collected with one query for the tables of each.

    :param direction: of the pipeline that looks: what it reads must be logged, and all of it accounted for.
    :param plugin: what that pipeline's log is decoded with; ``publication``: what it is read through, under pgoutput.
    """

    def __init__(self, migration: Migration, direction: Direction, plugin: Plugin, publication: str) -> None:
        self._migration = migration
        self._direction = direction
        self._plugin = plugin
        self._publication = publication

    async def look(self, source: Connection, target: Connection) -> list[Wrong]:
        """All that is wrong now. Connections of any kind do; nobody is kept from the tables, or waited for."""
        old, new = (source, target) if self._direction == "forward" else (target, source)
        if old is new:
            found = [*await self._side("old", old), *await self._side("new", new)]
        else:  # side by side: in a cutover the writers wait for it
            sides = await asyncio.gather(self._side("old", old), self._side("new", new))
            found = [*sides[0], *sides[1]]
        if self._direction == "forward":
            # The conditions of policies are not read here, since that may wait; each start and each cutover reads them.
            found += wrong("security", security.FACTS, await security_subject(self._migration, old, new, texts=False))
        return found

    async def _side(self, side: str, connection: Connection) -> list[Wrong]:
        reads: Direction = "forward" if side == "old" else "reverse"
        schema = self._migration.old if side == "old" else self._migration.new
        published = self._plugin == "pgoutput" and reads == self._direction
        database = await read_database(connection, schema, [self._publication] if published else [])
        relations = await read_relations(connection, schema, triggers=False)
        subject = tables_subject(
            self._migration,
            reads,
            relations,
            role=database.role,
            plugin=self._plugin if reads == self._direction else None,
        )
        found = self._of_the_database("source" if side == "old" else "target", database, published=published)
        found += wrong(f"{side}_tables", write_checks.FACTS, subject)
        if side == "old" and self._direction == "forward":  # later nobody writes to a table that was left behind
            coverage = coverage_subject(self._migration, relations)
            found += wrong("old_tables", migration_checks.COVERAGE, coverage)
        return found

    def _of_the_database(self, label: database_checks.Label, database: Database, *, published: bool) -> list[Wrong]:
        subject = DatabaseSubject(
            database=database,
            migration=self._migration.name,
            control=None,
            renamed=False,
            side="source",
            published=published,
        )
        return [*wrong(label, database_checks.FACTS, subject), *wrong(label, database_checks.SCHEMA, subject)]
