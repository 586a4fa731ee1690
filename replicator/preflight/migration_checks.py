"""Checks of the migration itself: every old table accounted for, and transforms that do what they must on real rows."""

from dataclasses import dataclass, field

from replicator.core.tables import Table
from replicator.mapping.plan import Plan
from replicator.migration import Direction, Migration
from replicator.postgres.ddl import switching
from replicator.postgres.trying.rehearsal import MOST_COUNTED, QueryReads
from replicator.preflight.facts import Consequence, Fact
from replicator.preflight.finding import Check, Verdict, counted, failed, listed, passed, warned
from replicator.preflight.sample import ROWS, Sample, Trial

MANY_KEYS = 10_000
"""A lookup that leads to more keys makes one small change a large one."""
SHOWN = 5
"""Examples in one finding."""


@dataclass(frozen=True)
class LookupTrial:
    """A Lookup for the changed rows of one table, run with NULLs; ``wrong`` says what came of it, if it is bad."""

    table: Table
    source: str
    columns: set[str]
    wrong: str | None
    most: int = 0
    """The most keys that one of a few rows leads to."""


@dataclass(frozen=True, kw_only=True)
class DirectionSubject:
    """One direction of a migration, resolved and tried."""

    plan: Plan
    reads: dict[str, QueryReads]
    """What each query reads, by its name."""
    lookups: list[LookupTrial]
    sample: Sample
    written: int | None
    """How many sample rows were written for a trial; None: they were not, because the tables are in use."""
    strict: bool
    """Before the first start: a transform that fails on every row is no quarantine, but a mistake."""

    @property
    def direction(self) -> Direction:
        """The plan's."""
        return self.plan.direction


@dataclass(frozen=True)
class SwitchingSubject:
    """The team's own statements for the cutover and the rollback, tried."""

    migration: Migration
    trial: switching.Trial
    together: bool = field(kw_only=True)
    """Both schemas are in one database."""


@dataclass(frozen=True, kw_only=True)
class CoverageSubject:
    """The old tables, by name, and the migration."""

    migration: Migration
    tables: frozenset[str]
    read: frozenset[str] = field(default_factory=frozenset)
    """Transformed, or read by a Query."""
    written: frozenset[str] = field(default_factory=frozenset)
    """By the way back."""


def coverage(subject: CoverageSubject) -> Verdict:
    """A table that is to go must not be left behind by oversight, nor one that is to stay be closed and dropped."""
    migration = subject.migration
    retired, left = set(migration.retired), migration.left
    transformed = sources_of(migration, "forward")
    forgotten = sorted(subject.tables - subject.read - retired - left) if migration.whole_schema else []
    wrong = {
        "neither transformed, nor retired, nor left": forgotten,
        "retired, but not there": sorted(retired - subject.tables),
        "left, but not there": sorted(left - subject.tables),
        "both transformed and retired": sorted(transformed & retired),
        "both transformed and left": sorted(transformed & left),
        "left, but written on the way back": sorted(subject.written & left - transformed),
        "both retired and left": sorted(retired & left),
    }
    problems = [f"{what}: {listed(tables)}" for what, tables in wrong.items() if tables]
    remedy = [f'migration.leave("{name}")' for name in forgotten]
    remedy += [f'migration.retire("{name}", because="...")' for name in forgotten]
    if problems:
        text = "; ".join(problems)
        return failed(
            f"{text[0].upper()}{text[1:]}.",
            "Write a transform for each table that the new schema is to hold. Leave a table that the application goes "
            "on using as it is. Retire one only if it is to go: the cutover refuses writes to it, and `replicator "
            "cleanup` drops it in the end. Take out what is wrong.",
            *remedy,
        )
    goes = subject.read | subject.written | retired
    stays = sorted(subject.tables - (goes - left))
    counts = f"{counted(len(subject.tables), 'table')}: {len(subject.read)} read, {len(retired)} retired"
    return passed(f"{counts}, {len(stays)} left alone{': ' if stays else ''}{listed(stays)}")


def way_back(subject: CoverageSubject) -> Verdict | None:
    """A rollback to tables that nothing has written since the cutover would lose every write without a word."""
    migration = subject.migration
    if not migration.way_back:
        if not migration.of("reverse"):
            return passed("none: after the cutover there is no rollback")
        return failed(
            f"The migration says that it has no way back, and has reverse transforms into {listed(subject.written)}.",
            "Take these out, or way_back=False.",
        )
    if not migration.of("reverse"):
        return None  # the plan of that direction cannot be made, which says it
    lost = sorted((subject.read - migration.left - subject.written) & subject.tables)
    if lost:
        return warned(
            f"No reverse transform writes {listed(lost)}: after a rollback they are as they were at the cutover.",
            "Write a reverse transform into each, unless the application can do with that.",
        )
    return passed(f"{counted(len(subject.written), 'old table')} written")


def cutover_statements(subject: SwitchingSubject) -> Verdict | None:
    """One that fails keeps the cutover from happening, at night; one that nothing undoes outlives a rollback."""
    trial = subject.trial
    if not any(trial.statements.values()):
        return None
    if not subject.together:
        return failed(
            "sql/cutover and sql/rollback cannot run in the move's transaction: the schemas are in two databases.",
            "Take them out, and run what is in them yourself.",
        )
    if trial.problem and not trial.perhaps:
        return failed(trial.problem, trial.remedy)
    if trial.problem:
        return warned(
            f"{trial.problem} That may be otherwise at the cutover.",
            trial.remedy,
            "Or, if it is written for --strategy rename: try it with `replicator cutover --dry-run --strategy rename`.",
        )
    if trial.statements["cutover"] and not trial.statements["rollback"] and subject.migration.way_back:
        return warned(
            "sql/cutover has statements, and sql/rollback none to undo them.", "Write them, if they are to be undone."
        )
    return passed(f"{counted(sum(trial.statements.values()), 'statement')} run; rolled back")


def queries(subject: DirectionSubject) -> Verdict | None:
    """A change to a table that a query reads but ``depends_on`` does not name would never reach the target."""
    if not subject.reads:
        return None
    watched = {
        source: {subject.plan.watched[table].name for table in subject.plan.dependencies
                 if any(each.source == source for each in subject.plan.dependencies[table])}
        for source in subject.reads
    }  # fmt: skip
    missed = {
        source: sorted(str(name) for name in set(reads.columns) - watched[source] if name.schema != "pg_catalog")
        for source, reads in subject.reads.items()
    }
    missed = {source: tables for source, tables in missed.items() if tables}
    if not missed:
        return passed("they read what depends_on names; what functions in them read is not seen")
    problems = (f"the query {source} reads {listed(tables)}" for source, tables in missed.items())
    return failed(
        f"Changes would be missed: {'; '.join(problems)}.",
        f"Name them in depends_on=; only tables of the schema {subject.plan.source_schema} can be followed.",
    )


def lookups(subject: DirectionSubject) -> Verdict | None:
    """A Lookup that fails on a changed row, or lacks a value of a deleted one, would leave target rows stale."""
    if not subject.lookups:
        return None
    bad = [f"the one of {each.source} for {each.table.name} {each.wrong}" for each in subject.lookups if each.wrong]
    if bad:
        return failed(f"Lookups that do not work: {'; '.join(bad)}.", "Mend them in depends_on=.")
    blind = {each.table.name: each for each in subject.lookups if each.columns - set(each.table.identity_columns)}
    if blind:
        return failed(
            f"The log does not carry what lookups need of a deleted row of {listed(str(name) for name in blind)}.",
            *[f'ALTER TABLE "{name.schema}"."{name.table}" REPLICA IDENTITY FULL;' for name in blind],
        )
    wide = [
        f"one changed row of {each.table.name} makes {_at_least(each.most)} rows of {each.source} be derived again"
        for each in subject.lookups
        if each.most > MANY_KEYS
    ]
    if wide:
        return warned(
            f"Wide lookups: {'; '.join(wide)}. The stream waits meanwhile.",
            "Where such rows change often, take the column that changes out of the query, or let the lookup name fewer "
            "keys.",
        )
    return passed("they run, and the log carries what they need")


def _at_least(rows: int) -> str:
    return f"{rows:,}" if rows < MOST_COUNTED else f"{MOST_COUNTED:,} or more"


def sample(subject: DirectionSubject) -> Verdict:
    """Wrong use shows on real rows: unknown columns, keys without value, what the target refuses."""
    found = subject.sample
    wrong = [*found.wrong, *(trial.wrong for trial in found.trials if trial.wrong)]
    refusing = [trial for trial in found.trials if trial.refused and not trial.wrong]
    hopeless = [trial for trial in refusing if subject.strict and len(trial.refused) >= trial.tried]
    detail = " ".join([*(_sentence(each) for each in wrong[:SHOWN]), *(_refusals(each) for each in refusing)])
    if wrong or hopeless:
        return failed(detail, f"Mend the transforms of {subject.plan.migration.name} and check again.")
    if refusing:
        return warned(
            detail, "Such rows go into quarantine, which keeps the gates shut: mend the transform or the rows."
        )
    if found.unread:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.unread.items())
        return warned(f"Not tried: {reasons}", "Make these sources faster to read, for the backfill's sake too.")
    tried = f"{counted(sum(trial.tried for trial in found.trials), 'row')} tried"
    wrote = "" if subject.written is None else f", {subject.written} written and rolled back"
    empty = f"; no rows in {listed(found.empty)}" if found.empty else ""
    return passed(f"{tried}{wrote}{empty}")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def _refusals(trial: Trial) -> str:
    rows = f"{min(len(trial.refused), trial.tried)} of {trial.tried} rows of {trial.transform.source}"
    return f"The transform {trial.transform.name} fails on {rows}, first: {trial.refused[0]}"


def deterministic(subject: DirectionSubject) -> Verdict:
    """The verifier derives every row again: what differs from run to run can never be proven right."""
    unstable = [trial.transform.name for trial in subject.sample.trials if trial.unstable]
    varying = [
        f"the query {name} calls {listed(reads.varies)}" for name, reads in subject.reads.items() if reads.varies
    ]
    if varying:
        return failed(
            f"A query returns something else when it is run twice: {'; '.join(varying)}.",
            "Take clocks, random values and sequences out; make new ids with uuid5 from the old key.",
        )
    if not unstable:
        return passed("each transform gave the same twice")
    return failed(
        f"Run twice on the same row, {listed(unstable)} gave something else.",
        "Take out now(), random values and the like; make new ids with uuid5 from the old key.",
    )


def unread_columns(subject: DirectionSubject) -> Verdict | None:
    """A column that nobody reads is lost on the other side, mostly by oversight."""
    found = subject.sample
    hopeless = {trial.transform.source for trial in found.trials if trial.wrong or len(trial.refused) >= trial.tried}
    if not found.read.keys() - hopeless:
        return None
    unread = [*_unread_of_tables(subject, hopeless), *_unread_of_queries(subject, hopeless)]
    if not unread:
        return passed(f"every column is read, in the first {ROWS} rows of each source")
    return warned(
        f"No transform read, in the first {ROWS} rows: {listed(unread)}.",
        "Carry them over; or, where they may be lost, say so: migration.retire('TABLE', column='...', because='...')",
    )


def _unread_of_tables(subject: DirectionSubject, hopeless: set[str]) -> list[str]:
    plan, unread = subject.plan, []
    for name, table in plan.watched.items():
        source = plan.table_source(name)
        if source is not None and (name not in subject.sample.read or name in hopeless):
            continue
        read = set(subject.sample.read.get(name, ()) if source is not None else ())
        for reads in subject.reads.values():
            columns = reads.columns.get(table.name, set())
            read |= set(table.by_name) if columns is None else columns
        read |= set(plan.migration.retired_columns.get(name, ()))
        unread += [f"{name}.{column}" for column in table.by_name if column not in read]
    return unread


def _unread_of_queries(subject: DirectionSubject, hopeless: set[str]) -> list[str]:
    return [
        f"{column} of the query {name}"
        for name, read in subject.sample.read.items()
        if subject.plan.sources[name].table is None and name not in hopeless
        for column in subject.plan.sources[name].by_name
        if column not in read and column not in subject.plan.sources[name].key
    ]


CHECKS: tuple[Check[DirectionSubject], ...] = (queries, lookups, sample, deterministic, unread_columns)
COVERAGE: tuple[Fact[CoverageSubject], ...] = (
    Fact(coverage, Consequence.SHUT),
    Fact(way_back, Consequence.TELL),
)
"""A table that appears in the old schema while the daemon runs would be left behind like any other."""


def sources_of(migration: Migration, direction: Direction) -> frozenset[str]:
    """The tables that transforms of one direction read row by row."""
    return frozenset(each.table for each in migration.of(direction) if each.table)


def read_by(migration: Migration, direction: Direction) -> frozenset[str]:
    """Those, and the tables that queries depend on."""
    depended = (each.source.depends_on for each in migration.of(direction) if not isinstance(each.source, str))
    return sources_of(migration, direction).union(*depended)


def written_by(migration: Migration, direction: Direction) -> frozenset[str]:
    """The target tables of one direction."""
    return frozenset(each.into for each in migration.of(direction))
