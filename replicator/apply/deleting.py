"""Deletes what is to go, children before their parents, and nothing that stays."""

from collections import Counter
from collections.abc import Iterable, Mapping

from replicator.apply.effects import Effects
from replicator.core.tables import ForeignKey, Key, Name, Table
from replicator.errors import RowError
from replicator.mapping.plan import Plan
from replicator.postgres.rows.target import TargetWriter

FOREIGN_KEY_VIOLATION = "23503"

MOVE_THEM = "If the source still produces them, delete or move them there first."

Written = Counter[tuple[str, str]]


async def to_go_last(writer: TargetWriter, plan: Plan, table: Table, effects: Effects) -> list[Key] | None:
    """The keys to delete once all that stays is written; None: all rows, which may be too many to be named."""
    stays = effects.upserts.get(table.name) or effects.spared
    if is_cleared(table, effects) and not stays and not acting_children(plan, table):
        return None
    return await keys_to_go(writer, table, effects)


async def delete_last(
    writer: TargetWriter, plan: Plan, going: Mapping[Name, list[Key] | None], written: Written
) -> None:
    """Delete what is to go, once all that stays is written. Raises RowError if that would take other rows along."""
    for table in reversed(plan.targets):
        await _take_nothing_along(writer, plan, table, going[table.name], {})
        await delete_keys(writer, table, going[table.name], written)


async def delete_together(writer: TargetWriter, plan: Plan, going: Mapping[Name, list[Key]], written: Written) -> None:
    """Likewise, where one may take along what goes as well: in a circle, none could go first.

    All tables are looked at before the first row goes: what goes with a row may take others along in turn.
    """
    for table in plan.targets:
        await _take_nothing_along(writer, plan, table, going[table.name], going)
    for table in reversed(plan.targets):
        await delete_keys(writer, table, going[table.name], written)


async def _take_nothing_along(
    writer: TargetWriter, plan: Plan, table: Table, keys: list[Key] | None, leaving: Mapping[Name, list[Key]]
) -> None:
    for child, foreign_key in acting_children(plan, table) if keys else ():
        if await writer.children_of(foreign_key, child, table, keys or (), leaving=leaving.get(child.name, ())):
            raise RowError(_takes_along(table, child, foreign_key), MOVE_THEM, FOREIGN_KEY_VIOLATION)


async def delete_keys(writer: TargetWriter, table: Table, keys: list[Key] | None, written: Written) -> None:
    """Delete these rows of one table; with None, all."""
    if keys is None:
        written[table.declared, "delete"] += await writer.clear(table)
    elif keys:
        written[table.declared, "delete"] += await writer.delete(table, keys)


def acting_children(plan: Plan, parent: Table) -> list[tuple[Table, ForeignKey]]:
    """The targets' foreign keys that would delete or change rows when a row of ``parent`` goes."""
    return [(table, each) for table, each in binding_children(plan, parent) if each.acts]


def keeps_children(plan: Plan, parent: Table) -> bool:
    """Whether a row of ``parent`` that is given another key keeps its children.

    They go along with the key (ON UPDATE CASCADE), or refer to another column, which may be what clashes.
    """
    return any(each.follows or stays(each, parent) for _, each in binding_children(plan, parent))


def stays(foreign_key: ForeignKey, parent: Table) -> bool:
    """Whether children refer to no column of the parent's key."""
    return set(foreign_key.parent_columns).isdisjoint(parent.key)


def binding_children(plan: Plan, parent: Table, *, everywhere: bool = False) -> Iterable[tuple[Table, ForeignKey]]:
    """The foreign keys that hold a row of ``parent``.

    :param everywhere: those of other tables of the schema, too, which nobody migrates.
    """
    tables = {each.name: each for each in (*(plan.target_tables.values() if everywhere else ()), *plan.targets)}
    return [
        (table, foreign_key)
        for table in tables.values()
        for foreign_key in table.foreign_keys
        if foreign_key.binds and foreign_key.parent == parent.name
    ]


def is_cleared(table: Table, effects: Effects) -> bool:
    """Whether all rows of the table are to go, for its source was truncated."""
    return any(transform.target.name == table.name for transform in effects.cleared)


async def keys_to_go(writer: TargetWriter, table: Table, effects: Effects) -> list[Key]:
    """What is to be deleted; after a TRUNCATE of the source, all that is not written."""
    if not is_cleared(table, effects):
        return effects.deletes_of(table.name)
    written = effects.upserts.get(table.name, {})
    stays = {key for name, key in effects.spared if name == table.name} | written.keys()
    return [key for key in await writer.all_keys(table) if key not in stays]


def _takes_along(table: Table, child: Table, foreign_key: ForeignKey) -> str:
    return (
        f"Deleting a row of {table.name} would take rows of {child.name} along ({foreign_key.name}), which the source "
        "still produces."
    )
