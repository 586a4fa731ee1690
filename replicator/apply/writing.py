"""Writes a batch's effects in an order that foreign keys allow, and finds which rows Postgres refuses."""

from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from replicator.apply.effects import Effects
from replicator.derive import TargetRow
from replicator.errors import RowError
from replicator.plan import Plan, PlannedTransform
from replicator.postgres.connect import translated
from replicator.postgres.target import TargetWriter
from replicator.tables import ForeignKey, Key, Table

FOREIGN_KEY_VIOLATION = "23503"
UNIQUE_VIOLATION = "23505"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A source row whose target row, or whose deletion, Postgres refuses."""

    transform: PlannedTransform
    source_key: Key
    error: RowError


Written = Counter[tuple[str, str]]
Step = Literal["delete", "upsert"]


async def write_effects(
    writer: TargetWriter, plan: Plan, effects: Effects, *, whole: bool
) -> tuple[Written, list[Refusal]]:
    """Write inside the caller's savepoint; with refusals, the caller rolls back to it.

    :raises RowError: when rows are refused and it cannot be found out which.
    """
    try:
        return await _write_all(writer, plan, effects, whole=whole, replace=False), []
    except RowError as error:
        first = error
    await _back(writer, "batch")
    if first.sqlstate == UNIQUE_VIOLATION:
        try:
            return await _write_all(writer, plan, effects, whole=whole, replace=True), []
        except RowError:
            await _back(writer, "batch")
    search = _Search(writer, plan, effects)
    await search.run()
    await _back(writer, "batch")
    if not search.refusals:
        raise first
    return Counter(), search.refusals


async def _back(writer: TargetWriter, savepoint: str) -> None:
    with translated():
        await writer.connection.execute(f"ROLLBACK TO SAVEPOINT {savepoint}".encode())


def _order(plan: Plan) -> list[tuple[Step, Table]]:
    """In which order to delete from the targets and to write to them.

    Where foreign keys can wait for the end of the transaction, children first, each table's deletions before its rows:
    so a unique value may pass from a row that goes to one that comes, and a deletion finds no child that has moved on.
    Where they cannot: deletions, children first; rows, parents first; last, deletions that act on children.
    """
    children_first = list(reversed(plan.targets))
    if all(foreign_key.deferrable for table in plan.targets for foreign_key in table.foreign_keys):
        steps: tuple[Step, Step] = ("delete", "upsert")
        return [(step, table) for table in children_first for step in steps]
    late = [table for table in children_first if acting_children(plan, table)]
    early: list[tuple[Step, Table]] = [("delete", table) for table in children_first if table not in late]
    return [*early, *(("upsert", table) for table in plan.targets), *(("delete", table) for table in late)]


async def _write_all(writer: TargetWriter, plan: Plan, effects: Effects, *, whole: bool, replace: bool) -> Written:
    """``replace`` deletes the rows before it inserts them, so that unique values may change hands among them."""
    written: Written = Counter()
    for step, table in _order(plan):
        rows = effects.upserts.get(table.name, {})
        if step == "delete":
            await _delete(writer, plan, table, effects, written)
        elif rows:
            if replace:
                held = await _referred(writer, plan, table, rows)
                await writer.delete(table, [key for key in rows if key not in held])
            written[table.called, "upsert"] += await writer.upsert(table, rows.values())
    if whole:
        with translated():
            await writer.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            await writer.connection.execute("SET CONSTRAINTS ALL DEFERRED")
    return written


async def _referred(writer: TargetWriter, plan: Plan, table: Table, keys: Iterable[Key]) -> set[Key]:
    """The keys whose deletion would act on children."""
    held: set[Key] = set()
    for child, foreign_key in acting_children(plan, table):
        held.update(await writer.children_of(foreign_key, child.name, table, keys))
    return held


async def _delete(writer: TargetWriter, plan: Plan, table: Table, effects: Effects, written: Written) -> None:
    acting = acting_children(plan, table)
    if _is_cleared(table, effects) and not acting:
        written[table.called, "delete"] += await writer.clear(table)
        return
    keys = await _keys_to_go(writer, table, effects)
    for child, foreign_key in acting if keys else ():
        if await writer.children_of(foreign_key, child.name, table, keys):
            raise RowError(_takes_along(table, child, foreign_key), sqlstate=FOREIGN_KEY_VIOLATION)
    if keys:
        written[table.called, "delete"] += await writer.delete(table, keys)


def acting_children(plan: Plan, parent: Table) -> list[tuple[Table, ForeignKey]]:
    """The targets' foreign keys that would delete or change rows when a row of ``parent`` goes."""
    return [
        (table, foreign_key)
        for table in plan.targets
        for foreign_key in table.foreign_keys
        if foreign_key.acts and foreign_key.parent == parent.name
    ]


def _is_cleared(table: Table, effects: Effects) -> bool:
    return any(transform.target.name == table.name for transform in effects.cleared)


async def _keys_to_go(writer: TargetWriter, table: Table, effects: Effects) -> list[Key]:
    """What is to be deleted; after a TRUNCATE of the source, all that is not written."""
    if not _is_cleared(table, effects):
        return effects.deletes_of(table.name)
    written = effects.upserts.get(table.name, {})
    return [key for key in await writer.all_keys(table) if key not in written]


def _takes_along(table: Table, child: Table, foreign_key: ForeignKey) -> str:
    return (
        f"Deleting a row of {table.name} would take rows of {child.name} along ({foreign_key.name}), which the source "
        "still gives."
    )


# ---- who was it


class _Search:
    """Writes all again, in halves where it must, and keeps what could not be written. The caller undoes it all."""

    def __init__(self, writer: TargetWriter, plan: Plan, effects: Effects) -> None:
        self.writer = writer
        self.plan = plan
        self.effects = effects
        self.refusals: list[Refusal] = []
        self.transforms = {each.name: each for each in plan.transforms}

    async def run(self) -> None:
        for step, table in _order(self.plan):
            if step == "delete":
                await self._deletes(table)
            else:
                await self._halve(table, list(self.effects.upserts_of(table.name)))
        await self._foreign_keys()

    async def _halve(self, table: Table, rows: list[TargetRow]) -> None:
        if not rows:
            return
        error = await self._try(self.writer.upsert(table, rows))
        if error is None:
            return
        if len(rows) == 1:
            self._refuse(rows[0], error)
            return
        middle = len(rows) // 2
        await self._halve(table, rows[:middle])
        await self._halve(table, rows[middle:])

    async def _try(self, write: Awaitable[object]) -> RowError | None:
        connection = self.writer.connection
        with translated():
            await connection.execute("SAVEPOINT half")
        try:
            await write
        except RowError as error:
            with translated():
                await connection.execute("ROLLBACK TO SAVEPOINT half")
            return error
        with translated():
            await connection.execute("RELEASE SAVEPOINT half")
        return None

    async def _deletes(self, table: Table) -> None:
        keys = await _keys_to_go(self.writer, table, self.effects)
        held: set[Key] = set()
        for child, foreign_key in acting_children(self.plan, table) if keys else ():
            for key in await self.writer.children_of(foreign_key, child.name, table, keys):
                held.add(key)
                self._refuse_delete(table, key, _takes_along(table, child, foreign_key))
        await self._halve_deletes(table, [key for key in keys if key not in held])

    async def _halve_deletes(self, table: Table, keys: Sequence[Key]) -> None:
        """A foreign key that cannot wait for the transaction's end refuses the deletion at once."""
        error = await self._try(self.writer.delete(table, keys)) if keys else None
        if error is not None and len(keys) == 1:
            self._refuse_delete(table, keys[0], error.problem)
        elif error is not None:
            middle = len(keys) // 2
            await self._halve_deletes(table, keys[:middle])
            await self._halve_deletes(table, keys[middle:])

    async def _foreign_keys(self) -> None:
        for child in self.plan.targets:
            for foreign_key in child.foreign_keys:
                await self._orphans(child, foreign_key)
                await self._bereaved(child, foreign_key)

    async def _orphans(self, child: Table, foreign_key: ForeignKey) -> None:
        rows = self.effects.upserts.get(child.name, {})
        if rows:
            for key in await self.writer.orphans(foreign_key, child, rows):
                self._refuse(
                    rows[key],
                    RowError(
                        f"The row of {child.name} refers to a row of {foreign_key.parent} that is not there "
                        f"({foreign_key.name}).",
                        sqlstate=FOREIGN_KEY_VIOLATION,
                    ),
                )

    async def _bereaved(self, child: Table, foreign_key: ForeignKey) -> None:
        """Deleted parents that a child still refers to, where the foreign key does not act but forbid."""
        parent = next((table for table in self.plan.targets if table.name == foreign_key.parent), None)
        keys = self.effects.deletes_of(foreign_key.parent) if parent is not None else []
        if parent is None or not keys or foreign_key.acts:
            return
        for key in await self.writer.children_of(foreign_key, child.name, parent, keys, deleted=True):
            self._refuse_delete(
                parent, key, f"A row of {child.name} still refers to the deleted row of {parent.name} "
                f"({foreign_key.name}).",
            )  # fmt: skip

    def _refuse(self, row: TargetRow, error: RowError) -> None:
        self.refusals.append(Refusal(transform=self.transforms[row.transform], source_key=row.source_key, error=error))

    def _refuse_delete(self, table: Table, key: Key, problem: str) -> None:
        error = RowError(problem, "Delete or move those rows in the source first.", FOREIGN_KEY_VIOLATION)
        if key not in self.effects.deletes.get(table.name, {}):
            raise error  # a TRUNCATE: no one source row to blame
        transform, source_key = self.effects.deletes[table.name][key]
        self.refusals.append(
            Refusal(
                transform=transform,
                source_key=source_key,
                error=error,
            )
        )
