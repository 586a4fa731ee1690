"""The tables of both sides and the transforms between them; new tables that are not there yet are made for a moment."""

from dataclasses import dataclass

from replicator.core.tables import Column, Table
from replicator.errors import DatabaseError, MigrationError, RetryableError, RowError
from replicator.mapping.plan import Plan, queries_of, resolve
from replicator.migration import Direction, Migration
from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.catalog.inspect import Relation, read_relations, tables_with_rows
from replicator.postgres.control.ownership import same_database
from replicator.postgres.control.renamed_tables import read_places
from replicator.postgres.ddl.authored import refused
from replicator.postgres.ddl.ddl import ROWS_CLASH, Part, part_statements
from replicator.postgres.ddl.rewriting import placed, rewritten
from replicator.postgres.ddl.statements import shortened
from replicator.postgres.ddl.switching import BEFORE
from replicator.postgres.session.connect import Connection
from replicator.postgres.trying.binding import compiled
from replicator.postgres.trying.described import describe_query
from replicator.postgres.trying.meanings import means_another
from replicator.postgres.trying.readmission import refused_again
from replicator.postgres.trying.rehearsal import (
    QueryReads,
    lookup_columns,
    most_looked_up,
    read_query,
    rehearsal,
    try_as_run,
    try_lookup,
)
from replicator.preflight import (
    copy_checks,
    migration_checks,
    security,
    write_checks,
)
from replicator.preflight.back_checks import OwnRowsSubject, own_rows
from replicator.preflight.consequences import Foresight
from replicator.preflight.facts import state
from replicator.preflight.finding import failed, listed, passed
from replicator.preflight.ground import coverage_subject, tables_subject
from replicator.preflight.migration_checks import DirectionSubject, LookupTrial, written_by
from replicator.preflight.sample import try_transforms, write_sample
from replicator.preflight.sides import Side
from replicator.preflight.switch_checks import check_switching
from replicator.preflight.whole import WholeReport

FOREIGN_KEY_VIOLATION = "23503"
MEND_STATEMENT = "Correct the statement, or the rows that are in its way."
MEND = "Mend the transforms or queries of this direction, and check again."

UNFINISHED = ("backfill", "build")
"""The phases in which parts of sql/new are not made yet."""
NEEDED_TO_READ = (
    "old_tables.read_privileges",
    "old_tables.row_security",
    "new_tables.read_privileges",
    "new_tables.write_privileges",
    "new_tables.row_security",
)
"""Where one of these fails, no row can be tried."""


@dataclass(kw_only=True)
class Schema:
    """The tables of one side's schema."""

    tables: dict[str, Table]
    relations: list[Relation]


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """One direction bound to the tables, and what its SQL says of itself."""

    plan: Plan
    reads: dict[str, QueryReads]
    lookups: list[LookupTrial]


async def check_schemas(report: WholeReport, migration: Migration, source: Side, target: Side) -> None:
    """Everything about tables and transforms."""
    await SchemaChecks(report, migration, source, target).run()


class SchemaChecks:
    """One run over both schemas."""

    def __init__(self, report: WholeReport, migration: Migration, source: Side, target: Side) -> None:
        self.report = report
        self.migration = migration
        self.source = source
        self.target = target
        self.before_start = target.phase is None
        self.wanted = written_by(migration, "forward")

    async def run(self) -> None:
        """Old tables first; then all that takes the new ones, in a transaction that is rolled back."""
        old = await self._read(self.source, self.migration.old)
        self._judge("old_tables", self.source, old, reads="forward")
        state(self.report, "old_tables", migration_checks.COVERAGE, coverage_subject(self.migration, old.relations))
        async with rehearsal(self.target.connection):
            await self._with_new_tables(old)

    async def _with_new_tables(self, old: Schema) -> None:
        there = self.wanted & set(await read_tables(self.target.connection, self.migration.new))
        if not await self._create(there):
            return
        new = await self._read(self.target, self.migration.new)
        self._judge("new_tables", self.target, new, reads="reverse")
        if self.report.failed(*NEEDED_TO_READ):
            return
        clean = self.before_start and await self._empty(there)
        source, target = self.source.connection, self.target.connection
        other = await copy_checks.other_types(target, self.migration, new.tables)
        self.report.judge("new_tables", (copy_checks.cast_types,), other)
        forward = await self._resolved("forward", source, old.tables, new.tables)
        if forward is not None:
            await self._try(forward, reader=source, writer=target if clean else None)
        reverse = await self._resolved("reverse", target, new.tables, old.tables)
        if reverse is not None:
            await self._try(reverse, reader=target, writer=None)
            await self._take_back(reverse.plan)
        if not there:
            await self._constrain()
        await self._protect(there)
        if forward is not None and (reverse is not None or not self.migration.way_back):
            foresight = Foresight(
                migration=self.migration,
                forward=forward.plan,
                reverse=reverse.plan if reverse is not None else None,
                together=await same_database(source, target),
                sampled=clean,
            )
            await check_switching(self.report, self.source, self.target, foresight)

    async def _read(self, side: Side, schema: str) -> Schema:
        return Schema(
            tables=await read_tables(side.connection, schema), relations=await read_relations(side.connection, schema)
        )

    def _judge(self, about: str, side: Side, schema: Schema, *, reads: Direction) -> None:
        subject = tables_subject(
            self.migration,
            reads,
            schema.relations,
            role=side.server.role,
            plugin=side.plugin,
            tables=tuple(schema.tables.values()),
        )
        state(self.report, about, write_checks.FACTS, subject)
        if reads == "reverse" and self.before_start:
            self.report.judge(about, write_checks.BEFORE_START, subject)

    # ---- the new tables

    async def _create(self, there: frozenset[str]) -> bool:
        """Make the new tables that are not there yet; gives whether all are there now."""
        check = "new_tables.definition"
        missing = sorted(self.wanted - there)
        if not missing:
            self.report.say(check, passed("all are there"))
            return True
        with self.report.stage(check):
            await self._run("tables")
            self.report.say(check, passed(f"sql/new makes {listed(missing)}; rolled back"))
            return True
        return False

    async def _constrain(self) -> None:
        """Indexes and constraints come when the tables are filled: a mistake in them would show after the backfill."""
        check = "new_tables.constraints"
        with self.report.stage(check):
            count = await self._run("indexes") + await self._run("constraints")
            self.report.say(check, passed(f"{count} statements run on the sample; rolled back"))

    async def _protect(self, there: frozenset[str]) -> None:
        """Who may do what with the new tables, as long as they are not in use; once all that sql/new makes is there."""
        if self.target.phase not in BEFORE or (there and self.target.phase in UNFINISHED):
            return
        with self.report.stage("security"):
            source, target = self.source.connection, self.target.connection
            await security.tell(self.report, self.migration, source, target, refuses=self.before_start)

    async def _run(self, part: Part) -> int:
        statements = part_statements(self.migration, part)
        for statement in statements:
            error = await try_as_run(self.target.connection, statement)
            if isinstance(error, RetryableError):  # a daemon that starts at this moment makes the same
                error = await try_as_run(self.target.connection, statement)
            # In a sample, children come without their parents.
            if error is None or (isinstance(error, DatabaseError) and error.sqlstate == FOREIGN_KEY_VIOLATION):
                continue
            problem, remedy = refused(
                error, ROWS_CLASH if isinstance(error, RowError) else error.remedy or MEND_STATEMENT
            )
            raise MigrationError(f"The statement {shortened(statement)!r} in sql/new fails: {problem}", remedy)
        return len(statements)

    async def _empty(self, there: frozenset[str]) -> bool:
        """Before the first start the new tables are empty: rows that nobody derived are extra, or in the way."""
        filled = await tables_with_rows(self.target.connection, self.migration.new, sorted(there))
        if not filled:
            self.report.say("new_tables.empty", passed("no rows yet"))
            return True
        names = listed(f'"{self.migration.new}"."{name}"' for name in filled)
        self.report.say(
            "new_tables.empty",
            failed(f"New tables hold rows that no transform gave: {listed(filled)}.", f"TRUNCATE {names};"),
        )
        return False

    # ---- the transforms

    async def _resolved(
        self, direction: Direction, reader: Connection, sources: dict[str, Table], targets: dict[str, Table]
    ) -> Resolved | None:
        check = f"{direction}.transforms"
        with self.report.stage(check, MEND):
            columns: dict[str, tuple[Column, ...]] = {}
            reads: dict[str, QueryReads] = {}
            places = await read_places(reader)
            for name, text in queries_of(self.migration, direction).items():
                query = rewritten(text, places)
                async with rehearsal(reader):
                    columns[name] = await describe_query(reader, name, query)
                    if another := await means_another(reader, query):
                        raise MigrationError(f"The query {name} {another}.", "Rows may be missed otherwise.")
                    reads[name] = await read_query(reader, query)
            plan = placed(resolve(self.migration, direction, sources, targets, columns), places)
            plan = await compiled(plan, reader, await self._runs_on(direction))
            into = listed(table.declared for table in plan.targets)
            self.report.say(check, passed(f"{len(plan.transforms)} into {into}"))
            self.report.judge(direction, (copy_checks.copied_columns,), plan)
            return Resolved(plan=plan, reads=reads, lookups=await self._lookups(plan, reader))
        return None

    async def _runs_on(self, direction: Direction) -> Connection:
        """Where SQL transforms run: on the target's side, through the connection that sees what sql/new makes."""
        source, target = self.source.connection, self.target.connection
        return target if direction == "forward" or await same_database(source, target) else source

    async def _take_back(self, plan: Plan) -> None:
        """After the cutover it would be too late: no rollback, because what is written back is refused."""
        with self.report.stage("reverse.own_rows"):
            found = {table: await refused_again(self.source.connection, table) for table in plan.targets}
            subject = OwnRowsSubject({table: each for table, each in found.items() if each}, strict=self.before_start)
            self.report.judge("reverse", (own_rows,), subject)

    async def _lookups(self, plan: Plan, reader: Connection) -> list[LookupTrial]:
        """The author's SQL that leads from a changed row to source keys, run with NULLs."""
        trials = []
        async with rehearsal(reader):
            for name, dependencies in plan.dependencies.items():
                for each in dependencies:
                    if each.lookup is not None:
                        table = plan.watched[name]
                        source = plan.sources[each.source]
                        key = [source.by_name[column] for column in source.key]
                        wrong = await try_lookup(reader, each.lookup, table, key)
                        most = 0 if wrong else await most_looked_up(reader, each.lookup, table)
                        trials.append(LookupTrial(table, each.source, lookup_columns(each.lookup), wrong, most))
        return trials

    async def _try(self, resolved: Resolved, *, reader: Connection, writer: Connection | None) -> None:
        plan = resolved.plan
        with self.report.stage(f"{plan.direction}.sample", MEND):
            sample = await try_transforms(reader, plan, await self._runs_on(plan.direction))
            written = await write_sample(writer, sample, list(plan.targets)) if writer is not None else None
            subject = DirectionSubject(
                plan=plan,
                reads=resolved.reads,
                lookups=resolved.lookups,
                sample=sample,
                written=written,
                strict=self.before_start,
            )
            self.report.judge(plan.direction, migration_checks.CHECKS, subject)
