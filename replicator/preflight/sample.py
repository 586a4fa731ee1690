"""Tries the transforms on a sample: what they raise, what they give, whether the same twice, what they read."""

from collections import Counter
from dataclasses import dataclass, field

from replicator.core.selects import Select
from replicator.core.tables import Key, Name, Row, Table, key_of
from replicator.errors import DatabaseError, RowError, ShapeError, TransformError
from replicator.mapping.derive import TargetRow, UnreadableRow
from replicator.mapping.plan import Plan, PlannedTransform, Source
from replicator.postgres.guarding.resting import switch_off
from replicator.postgres.rows.derived import derive_rows
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import Connection
from replicator.postgres.trying.keyless import keyless, sampled_keyless
from replicator.postgres.trying.rehearsal import read_sample
from replicator.postgres.trying.sampling import sample_one_by_one
from replicator.preflight.finding import counted
from replicator.preflight.traced import TracedRow

READ_ONLY = "25006"
ROWS = 200
"""Of each source."""


@dataclass
class Trial:
    """One transform on the rows of its source."""

    transform: PlannedTransform
    tried: int = 0
    wrong: str | None = None
    """What is wrong with the transform itself, whatever the row."""
    refused: list[str] = field(default_factory=list)
    """One sentence for each row that it, or the target, refuses."""
    unstable: bool = False
    """The second run gave something else."""


@dataclass
class Sample:
    """What came of it."""

    trials: list[Trial] = field(default_factory=list)
    read: dict[str, set[str]] = field(default_factory=dict)
    """The columns that were read, by source; a source without rows is not in it."""
    empty: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What is wrong with sources: a query that gives no key, or a key twice."""
    unread: dict[str, str] = field(default_factory=dict)
    """Sources that could not be read, with the reason."""
    rows: dict[Name, dict[Key, TargetRow]] = field(default_factory=dict)
    """The derived rows, by target."""


async def try_transforms(connection: Connection, plan: Plan, target: Connection | None) -> Sample:
    """Run each transform over the first rows of its source, twice.

    :param target: where SQL transforms run; with None, only what they read is noted.
    """
    sample = Sample()
    for source in plan.sources.values():
        try:
            keyed = await _read(connection, source, sample)
            without_key = await sampled_keyless(connection, source)
        except DatabaseError as error:
            if error.sqlstate == READ_ONLY:
                sample.wrong.append(
                    f"{source.name} locks rows, or writes: sources are read in transactions that only read"
                )
            else:
                sample.unread[source.name] = error.problem
            continue
        if without_key:
            sample.wrong.append(f"{keyless(source)}; leave them out in its SQL, or add a key to them")
        if not keyed:
            sample.empty.append(source.name)
            continue
        read = sample.read.setdefault(source.name, set())
        for transform in source.transforms:
            if transform.key is not None:
                read.update(source.key)
            if isinstance(transform.function, Select):
                read.update(each.name for each in transform.function.reads)
            if target is not None or not isinstance(transform.function, Select):
                sample.trials.append(await _try(target or connection, transform, source, keyed, read, sample))
    return sample


async def _read(connection: Connection, source: Source, sample: Sample) -> list[tuple[Key, Row]]:
    try:
        return _keyed(source, await read_sample(connection, source, ROWS), sample)
    except RowError:  # of a query: it is to be said which rows, and whether all of them, fail
        return await sample_one_by_one(connection, source, ROWS)


def _keyed(source: Source, rows: list[Row], sample: Sample) -> list[tuple[Key, Row]]:
    keyed = [
        (key_of(row, source.key, source.by_name), row)
        for row in rows
        if not any(row[name] is None for name in source.key)
    ]  # fmt: skip
    twice = [key for key, count in Counter(key for key, _ in keyed).items() if count > 1]
    if twice:
        sample.wrong.append(
            f"the query {source.name} returns {counted(len(twice), 'key')} more than once, such as {list(twice[0])}; "
            f"{', '.join(source.key)} must be unique in its result"
        )
    return keyed


async def _try(
    target: Connection,
    transform: PlannedTransform,
    source: Source,
    keyed: list[tuple[Key, Row]],
    read: set[str],
    sample: Sample,
) -> Trial:
    trial = Trial(transform, len(keyed))
    rows = {key: _traced(transform, row, read) for key, row in keyed}
    once = await derive_rows(target, transform, source, rows)
    again = await derive_rows(target, transform, source, rows)
    for key, given in once.items():
        if isinstance(given, ShapeError):
            trial.wrong = given.problem
            return trial
        if isinstance(given, TransformError):
            trial.refused.append(given.problem)
            continue
        other = again[key]
        trial.unstable = trial.unstable or isinstance(other, TransformError) or other != given
        _keep(trial, given, sample)
    return trial


def _traced(transform: PlannedTransform, row: Row, read: set[str]) -> Row:
    """An SQL transform says itself what it reads."""
    return row if isinstance(row, UnreadableRow) or isinstance(transform.function, Select) else TracedRow(row, read)


def _keep(trial: Trial, rows: list[TargetRow], sample: Sample) -> None:
    if len(rows) > 1 and trial.transform.key is not None and not trial.transform.remembers:
        trial.wrong = f"The transform {trial.transform.name} has a key= and returns several rows; leave key= out."
        return
    taken = sample.rows.setdefault(trial.transform.target.name, {})
    for row in rows:
        other = taken.setdefault(row.key, row)
        if other is not row:
            trial.refused.append(
                f"Two source rows produce the same row {list(row.key)} of {trial.transform.target.name}: "
                f"{other.transform} for {list(other.source_key)}, and {row.transform} for {list(row.source_key)}."
            )


async def write_sample(connection: Connection, sample: Sample, targets: list[Table]) -> int:
    """Write the derived rows inside a rehearsal; gives how many went in, and notes what was refused."""
    writer = TargetWriter(connection, targets)
    await writer.prepare()
    await switch_off(connection, [table.name for table in targets])
    trials = {trial.transform.name: trial for trial in sample.trials}
    written = 0
    for table in targets:
        rows = list(sample.rows.get(table.name, {}).values())
        if await _write(writer, table, rows) is None:
            written += len(rows)
            continue
        for row in rows:
            error = await _write(writer, table, [row])
            if error is None:
                written += 1
            elif error.sqlstate != "23503":  # its parent may well not be in the sample
                trials[row.transform].refused.append(f"{error.problem} ({row.transform}, {list(row.source_key)})")
    return written


async def _write(writer: TargetWriter, table: Table, rows: list[TargetRow]) -> RowError | None:
    try:
        with refusing():
            async with writer.connection.transaction():
                await writer.insert_absent(table, rows)
    except RowError as error:
        return error
    return None
