"""One old row on its whole way: what it becomes, what the new tables hold now, and what comes back of it."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Final

from replicator.apply.compacting import ask, compact
from replicator.core.changes import Change, Image, RelationName
from replicator.core.tables import Key, Row, Table
from replicator.errors import ReplicatorError, RowError, UsageError
from replicator.mapping.derive import TargetRow, UnreadableRow
from replicator.mapping.plan import Plan, PlannedTransform, Source
from replicator.migration import NO_WAY_BACK, Migration
from replicator.postgres.control.undisturbed import undisturbed
from replicator.postgres.rows.comparing import compare
from replicator.postgres.rows.derived import derive_all
from replicator.postgres.rows.given import GivenColumns
from replicator.postgres.rows.keys import Asked
from replicator.postgres.rows.looking_up import look_up
from replicator.postgres.rows.source import range_groups, read_alone, read_images
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import Connection, connection, give_text
from replicator.postgres.trying.rehearsal import rehearsal
from replicator.postgres.trying.scratch import Scratch
from replicator.runbook.rehearsed_plan import rehearsed_plan, snapshot
from replicator.runbook.round_trip import beside, chunks, derive_back, of_copies, plan_back
from replicator.runbook.row_report import Beside, Cell, Made, OneRow, cells, state_of, texts
from replicator.settings import Settings

MOST_KEYS: Final = 10
"""Rows of one query that are shown for one row of a table."""


async def try_row(settings: Settings, migration: Migration, source: str, spelt: Key) -> OneRow:
    """Take one row of an old table, or of a query, through the migration and back. Writes nothing that stays.

    :param source: a table that a transform or a query reads, or a query, as the migration names it.
    :param spelt: the parts of its key, as text that Postgres reads.
    :raises UsageError: there is no such source, or its key has another number of parts.
    :raises ReplicatorError: there is no such row.
    :raises MigrationError, NotReadyError: as ``rehearsed_plan``.
    """
    work = partial(_try_row, settings, migration, source, spelt)
    return await undisturbed((settings.source, settings.target), work)


async def _try_row(settings: Settings, migration: Migration, source: str, spelt: Key) -> OneRow:
    notes: list[str] = []
    async with connection(settings.target, "try") as target, rehearsal(target):
        plan = await rehearsed_plan(settings, migration, target, [])  # its notes are of indexes, which no one row needs
        back = await plan_back(settings, migration, target) if migration.of("reverse") else None
        chosen = _chosen(plan, source, spelt)
        scratch = Scratch(target, plan.targets)
        await scratch.create()
        async with snapshot(settings.source) as reader:
            trial = _Trial(plan, scratch, notes)
            result = await trial.run(reader, chosen, spelt)
            if back is None:
                notes.append(f"{NO_WAY_BACK}.")
            elif trial.loaded:
                give_text(target)
                async with beside(settings, back, reader) as writer:
                    await _bring_back(migration, back, target, scratch, writer, reader, result)
    return result


def _chosen(plan: Plan, name: str, spelt: Key) -> Source:
    source = plan.sources.get(name)
    if source is None and (table := plan.watched.get(name)) is not None:  # only queries read it
        source = Source(name=name, table=table, query=None, columns=table.columns, key=table.key, transforms=())
    if source is None:
        listed = ", ".join(sorted({*plan.sources, *plan.watched}))
        raise UsageError(f"No transform reads {name}.", f"Name one of these: {listed}.")
    if len(spelt) != len(source.key):
        parts = ", ".join(source.key)
        raise UsageError(f"The key of {name} is ({parts}).", f"Give {len(source.key)} values, in this order.")
    return source


class _Trial:
    """The way there."""

    def __init__(self, plan: Plan, scratch: Scratch, notes: list[str]) -> None:
        self._plan = plan
        self._scratch = scratch
        self._given = GivenColumns("forward", None)
        self._notes = notes
        self._seen: set[tuple[str, Key]] = set()
        self.loaded = False
        """Some new row is in the copies."""

    async def run(self, reader: Connection, source: Source, spelt: Key) -> OneRow:
        """Through the transforms of the source, and of the queries that hang on this row."""
        columns = [source.by_name[name] for name in source.key]
        asked = Asked()
        for column, text in zip(columns, spelt, strict=True):
            await asked.ask(reader, column, [text])
        try:
            key = asked.key(columns, spelt)
        except ValueError:
            raise UsageError(f"This cannot be a key of {source.name}.", "Give values of the columns' types.") from None
        row = await _read(reader, source, key)
        if row is None:
            raise ReplicatorError(f"{source.name} has no row with this key.", "Look for it in the old schema.")
        result = OneRow(source=source.name, key=key, notes=self._notes)
        await self._through(result, source, key, row)
        if source.table is not None:
            images, _ = await read_images(reader, source.table, [key])
            result.old = texts(images.get(key, {}))
            async for query, of_query in self._hanging(reader, source.table, images.get(key, {})):
                await self._through(result, query, of_query, await _read(reader, query, of_query))
        return result

    async def _hanging(self, reader: Connection, table: Table, image: Image) -> AsyncIterator[tuple[Source, Key]]:
        """The keys of queries that would be read again if this row changed."""
        relation = RelationName.of(table.name)
        change = Change(relation, "insert", new=image)
        relations = {relation: table}
        asked = await ask([change], self._plan, relations, reader)
        found = compact([change], self._plan, relations, asked, nulls_are_ambiguous=False)
        for dependency, parameters in found.lookups:
            source = self._plan.sources[dependency.source]
            async with aclosing(look_up(reader, source, dependency, dict(parameters), MOST_KEYS)) as groups:
                async for keys in groups:
                    found.dirty.setdefault(source.name, set()).update(keys)
        for name in found.dirty_all:
            async with aclosing(range_groups(reader, self._plan.sources[name], None, None, MOST_KEYS + 1)) as groups:
                async for rows, _, _ in groups:
                    found.dirty.setdefault(name, set()).update(key for key, _ in rows)
        for name, keys in found.dirty.items():
            if name == table.declared:
                continue
            if len(keys) > MOST_KEYS:
                self._notes.append(
                    f"More rows of {name} are derived again when this row changes: {MOST_KEYS} are shown."
                )
            for key in sorted(keys)[:MOST_KEYS]:
                yield self._plan.sources[name], key

    async def _through(self, result: OneRow, source: Source, key: Key, row: Row | None) -> None:
        for transform in source.transforms:
            found = await derive_all(self._scratch.connection, transform, source, {key: row}, self._given)
            made = Made(transform=transform.name, source=source.name, key=key)
            result.made.append(made)
            if (error := found[key].error) is not None:
                made.error = str(error)
                continue
            made.rows = [await self._beside(transform, derived) for derived in found[key].rows]

    async def _beside(self, transform: PlannedTransform, row: TargetRow) -> Beside:
        """A new row as the table would print it, beside the one that it holds."""
        table = transform.target
        shown = Beside(table=table.declared, key=row.key, state="refused")
        if (table.declared, row.key) in self._seen:
            shown.error = "Another row above has this key: the two clash."
            return shown
        self._seen.add((table.declared, row.key))
        error = await self._scratch.load(table, [row])
        if error is not None:
            shown.error = error.problem
            return shown
        self.loaded = True
        wanted = await self._scratch.printed(table, row.key)
        found = await self._scratch.held(table, row.key)
        given = {name: text for name, text in wanted.items() if name in row.columns}
        shown.cells = cells(given, found or None)
        shown.state = state_of(shown.cells, there=bool(found))
        return shown


async def _read(reader: Connection, source: Source, key: Key) -> Row | None:
    try:
        return await read_alone(reader, source, key)
    except RowError as error:  # a query, or a generated column, fails for it: its transforms say so
        return UnreadableRow(error.problem)


# ---- the way back


async def _bring_back(
    migration: Migration,
    plan: Plan,
    target: Connection,
    scratch: Scratch,
    writer: TargetWriter,
    reader: Connection,
    result: OneRow,
) -> None:
    given = GivenColumns("reverse", None)
    whole = True
    for source in plan.sources.values():
        copied = await of_copies(source, scratch, target, migration, result.notes)
        # A query that joins finds only what this one row gave: that it returns nothing says nothing.
        whole = whole and copied is not None and source.query is None
        if copied is None:
            continue
        async for chunk in chunks(target, copied, None):
            for transform in source.transforms:
                derived = await derive_back(writer, target, transform, source, chunk, given)
                for key, each in derived.items():
                    made = Made(transform=transform.name, source=source.name, key=key)
                    made.error = "" if each.error is None else str(each.error)
                    made.rows = [await _returned(writer, transform.target, row, reader) for row in each.rows]
                    if made.rows or made.error:
                        result.back.append(made)
    came = any(row.table == result.source and row.key == result.key for each in result.back for row in each.rows)
    written = any(each.declared == result.source for each in plan.targets)
    result.lost = written and whole and not came
    if written and not whole and not came:
        result.notes.append("Whether the row comes back was not tried: a query of the way back reads more than it.")


async def _returned(writer: TargetWriter, table: Table, row: TargetRow, reader: Connection) -> Beside:
    """A row that comes back, beside the old one: compared by the server, for the two are printed by different ones."""
    shown = Beside(table=table.declared, key=row.key, state="same")
    try:
        async with writer.connection.transaction():
            mismatches = await compare(writer, table, [row])
    except RowError as error:
        shown.state, shown.error = "refused", error.problem
        return shown
    images, _ = await read_images(reader, table, [row.key])
    old = texts(images.get(row.key, {}))
    differing = {name for each in mismatches for name in each.columns}
    if mismatches:
        shown.state = "missing" if mismatches[0].kind == "missing" else "different"
        shown.error = mismatches[0].note
    shown.cells = [
        # What the server holds equal is shown as it was: 1.0 and 1.00 are no difference.
        Cell(column=name, wanted=text, found=old.get(name), differs=True)
        if name in differing or not old
        else Cell(column=name, wanted=old.get(name), found=old.get(name))
        for name, text in row.columns.items()
    ]
    return shown
