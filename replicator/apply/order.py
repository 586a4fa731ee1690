"""In which order a batch's effects are written: two ways, so that what the application did at once can be done here."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from replicator.apply.deleting import (
    FOREIGN_KEY_VIOLATION,
    Written,
    binding_children,
    delete_keys,
    delete_last,
    delete_together,
    is_cleared,
    keeps_children,
    keys_to_go,
    stays,
    to_go_last,
)
from replicator.apply.effects import Effects, Locked
from replicator.core.tables import Key, Name, Table
from replicator.mapping.derive import TargetRow
from replicator.mapping.plan import Plan
from replicator.postgres.rows.inserting import by_columns, left_out
from replicator.postgres.rows.rearranging import detach, give_back, lacking, move, put_aside
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.replacing import replace_at_once
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import translated

CLASHES = ("23505", "23P01", FOREIGN_KEY_VIOLATION, "23001", "P0001")
"""What may be a matter of order: unique and exclusion constraints, foreign keys (23001: RESTRICT), triggers."""


async def write_plainly(writer: TargetWriter, plan: Plan, effects: Effects, *, whole: bool) -> Written:
    """Each row once, parents before their children; each deletion once, children before their parents.

    Where foreign keys wait for the end of the transaction, and do nothing by themselves, each table's deletions come
    before its rows: so a unique value may pass from a row that goes to one that comes. Where they do not, all deletions
    come last: a child may have moved from a parent that goes to one that comes.
    """
    written: Written = Counter()
    for table in plan.targets:
        await _put_aside(writer, table, effects, None)
    children_first = list(reversed(plan.targets))
    if not any(foreign_key.binds for table in plan.targets for foreign_key in table.foreign_keys):
        for table in children_first:
            cleared = is_cleared(table, effects) and not effects.spared
            await delete_keys(writer, table, None if cleared else await keys_to_go(writer, table, effects), written)
            await _upsert(writer, table, effects, written)
    else:
        for table in plan.targets:
            await _upsert(writer, table, effects, written)
        going = {table.name: await to_go_last(writer, plan, table, effects) for table in plan.targets}
        await delete_last(writer, plan, going, written)
    writer.aside.clear()
    await check_constraints(writer, whole=whole)
    return written


async def write_anew(writer: TargetWriter, plan: Plan, effects: Effects, *, whole: bool) -> Written:
    """Make room first: what is to be written is deleted as well, but for parents that other rows hold on to.

    So values that must be unique, or exclude each other, may change hands; and rows that refer to each other, in a
    circle or to themselves, lose what refers by a column that may be NULL, and get it back in the end.
    """
    written: Written = Counter()
    moved = {table.name: await _move(writer, plan, table, effects) for table in plan.targets}
    for table in plan.targets:
        await _put_aside(writer, table, effects, moved[table.name])
    for table in plan.targets:
        await _detach(writer, table, effects)
    late: dict[Name, list[Key]] = {}
    held: dict[Name, set[Key]] = {}
    for table in reversed(plan.targets):
        rows = effects.upserts.get(table.name, {})
        gone = await keys_to_go(writer, table, effects)
        free = await _free(writer, plan, table, [*rows, *gone])
        going = [key for key in gone if key in free]
        written[table.declared, "delete"] += await writer.delete(table, going) if going else 0
        if again := [key for key in rows if key in free]:
            await writer.delete(table, again)
        late[table.name] = [key for key in gone if key not in free]
        held[table.name] = rows.keys() - free
    staying = {name: set(keys) for name, keys in late.items()}
    waiting = {name: {new for new, old in each.items() if old in staying[name]} for name, each in moved.items()}
    for table in plan.targets:
        loose = _loosely(plan, table, effects.upserts_of(table.name))
        await _replace(writer, plan, table, loose, held[table.name], effects.locked)
        moving = waiting[table.name]
        written[table.declared, "upsert"] += await _upsert_in_place(writer, table, loose, moving, effects.locked)
    for table in plan.targets:
        if _looping(plan, table):
            await writer.upsert(table, effects.upserts_of(table.name))  # once more
    await delete_together(writer, plan, late, written)
    for table in plan.targets:
        await _give_back(writer, table, effects, waiting[table.name])
    writer.aside.clear()
    await check_constraints(writer, whole=whole)
    return written


async def _put_aside(writer: TargetWriter, table: Table, effects: Effects, moved: Mapping[Key, Key] | None) -> None:
    """Keep aside what a row that is inserted in the place of another is to take over from it.

    No transform gives these columns, so nobody could make them anew: the application may have written them.

    :param moved: rows that get another key. With None, all that do, and no others: what is not deleted stays as it is.
    """
    writer.aside.pop(table.name, None)
    keys = {row.key for row in lacking(table, effects.upserts_of(table.name))}
    if keys:
        old = {new: old for new, old in (effects.moved(table.name) if moved is None else moved).items() if new in keys}
        others = set() if moved is None else keys - old.keys()
        if old or others:
            await put_aside(writer, table, others, old, _detached(table))


async def _give_back(writer: TargetWriter, table: Table, effects: Effects, waiting: Collection[Key]) -> None:
    """In the end: columns that were NULL meanwhile, for they refer to rows which may have come since.

    :param waiting: rows that were written before those went in whose place they come: these have held what is unique.
    """
    if table.name not in writer.aside:
        return
    fixed = {*table.key, *(each.name for each in table.columns if each.identity)}
    for columns, rows in by_columns(effects.upserts_of(table.name)).items():
        keys = {row.key for row in rows}
        left = [name for name in left_out(table, columns) if name not in fixed]
        await give_back(writer, table, [name for name in left if name in _detached(table)], keys - set(waiting))
        await give_back(writer, table, left, keys & set(waiting))


async def check_constraints(writer: TargetWriter, *, whole: bool) -> None:
    """Check what could wait until now; only where a transaction of the source ends must it hold."""
    if whole:
        with refusing():
            await writer.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        with translated():
            await writer.connection.execute("SET CONSTRAINTS ALL DEFERRED")


async def _upsert(writer: TargetWriter, table: Table, effects: Effects, written: Written) -> None:
    rows = effects.upserts.get(table.name, {})
    if rows:
        written[table.declared, "upsert"] += await _write(writer, table, rows.values(), effects.locked)


async def _write(writer: TargetWriter, table: Table, rows: Iterable[TargetRow], locked: Locked | None) -> int:
    """Insert or replace; of rows that were not there when it was looked, none is replaced."""
    if locked is None:
        return await writer.upsert(table, rows)
    there, listed = locked.of(table.name), list(rows)
    fresh = [row for row in listed if row.key not in there]
    inserted = await writer.insert_absent(table, fresh)
    locked.appeared |= inserted < len(fresh)
    return inserted + await writer.upsert(table, [row for row in listed if row.key in there])


async def _upsert_in_place(
    writer: TargetWriter, table: Table, rows: list[TargetRow], waiting: Collection[Key], locked: Locked | None
) -> int:
    """With what is kept aside for them, but for those that wait for others to go."""
    aside = writer.aside.get(table.name)
    late = [row for row in rows if row.key in waiting] if aside is not None else []
    now = [row for row in rows if row.key not in waiting] if late else rows
    written = await _write(writer, table, now, locked) if now else 0
    if late and aside is not None:
        del writer.aside[table.name]
        written += await _write(writer, table, late, locked)
        writer.aside[table.name] = aside
    return written


def _loosely(plan: Plan, table: Table, rows: Iterable[TargetRow]) -> list[TargetRow]:
    """Without what refers to rows that may come later."""
    loose = _looping(plan, table)
    return [replace(row, columns={**row.columns, **dict.fromkeys(loose & row.columns.keys())}) for row in rows]


def _looping(plan: Plan, table: Table) -> set[str]:
    """The columns that may be NULL by which rows refer to their own table, or to one that is written later."""
    names = [each.name for each in plan.targets]
    later = set(names[names.index(table.name) :])
    return {
        name
        for each in table.foreign_keys
        if each.parent in later and not each.deferrable
        for name in each.detachable
    }  # fmt: skip


async def _move(writer: TargetWriter, plan: Plan, table: Table, effects: Effects) -> dict[Key, Key]:
    """Give rows their new keys where children stay with them, which could not be deleted and written in between.

    Returns those that have them not: the old key by the new one.
    """
    rest = left = effects.moved(table.name)
    if not left or not keeps_children(plan, table):
        return rest
    for child, foreign_key in binding_children(plan, table, everywhere=True):
        if not foreign_key.follows and not stays(foreign_key, table):
            held = await writer.children_of(foreign_key, child, table, left.values())
            left = {new: old for new, old in left.items() if old not in held}
    while left:
        taken = set(await writer.present(table, left))
        free = {new: old for new, old in left.items() if new not in taken}
        if not free:
            break  # they change places: then they are deleted and written
        await move(writer, table, free)
        left = {new: old for new, old in left.items() if new in taken}
        rest = {new: old for new, old in rest.items() if new not in free}
    return rest


async def _replace(
    writer: TargetWriter, plan: Plan, table: Table, rows: list[TargetRow], held: set[Key], locked: Locked | None
) -> None:
    """Let values change hands among rows that children hold on to, where a foreign key admits it."""
    if locked is not None:
        held &= locked.of(table.name)
    for child, foreign_key in binding_children(plan, table, everywhere=True):
        if held and (foreign_key.acts or foreign_key.restricts):
            held -= set(await writer.children_of(foreign_key, child, table, held))
    for group in by_columns(row for row in rows if row.key in held).values():
        if len(group) > 1:
            await replace_at_once(writer, table, group)


def _detached(table: Table) -> frozenset[str]:
    """The columns that are set to NULL while rows are deleted and written again."""
    return frozenset(name for each in table.foreign_keys if each.binds for name in each.detachable)


async def _detach(writer: TargetWriter, table: Table, effects: Effects) -> None:
    columns = _detached(table)
    keys = [*effects.upserts.get(table.name, {}), *await keys_to_go(writer, table, effects)] if columns else []
    if keys:
        await detach(writer, table, sorted(columns), keys)


async def _free(writer: TargetWriter, plan: Plan, table: Table, keys: list[Key]) -> set[Key]:
    """The keys whose rows can be deleted now: nothing that stays holds on to them, or would go with them."""
    free = set(keys)
    for child, foreign_key in binding_children(plan, table, everywhere=True):
        while free:  # of a table that refers to itself, what must stay holds its own parent
            held = free & set(await writer.children_of(foreign_key, child, table, free))
            free -= held
            if not held or child.name != table.name:
                break
    return free
