"""From what is noted to be derived again to a batch."""

from collections.abc import Iterable

from replicator.apply.compacting import ask, mark
from replicator.apply.net_changes import NetChanges
from replicator.core.changes import Change, Image, RelationName
from replicator.core.tables import Key, Table
from replicator.mapping.plan import Plan
from replicator.postgres.control.key_map import givers
from replicator.postgres.control.rederivations import Rederivation
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.keys import ask_keys
from replicator.postgres.rows.source import keys_where, read_images
from replicator.postgres.session.connect import Connection


async def rederiving(entries: Iterable[Rederivation], plan: Plan, reader: Connection) -> NetChanges:
    """The source keys that these entries mean, each with its date. ``reader`` leads to the source, and gives text."""
    net = NetChanges()
    rows: dict[str, list[Rederivation]] = {}
    for each in entries:
        if each.what == "row":
            rows.setdefault(each.name, []).append(each)
        elif each.name in plan.sources:
            net.dirty.setdefault(each.name, set()).add(each.key)
            net.dates.note(each.name, each.key, each.dated)
    for name, of_table in rows.items():
        table = plan.watched.get(name)
        if table is None:
            continue  # nothing is derived from it
        images, unreadable = await read_images(reader, table, {each.key for each in of_table})
        changes = [
            _unknown(table) if each.key in unreadable else _changed(table, each, images.get(each.key))
            for each in of_table
        ]
        relation = RelationName.of(table.name)
        net.asked = await ask(changes, plan, {relation: table}, reader)
        for each, change in zip(of_table, changes, strict=True):
            _mark_row(net, plan, table, each, change)
    return net


async def claimed(entry: Rederivation, context: Context, connection: Connection) -> list[tuple[str, Key]]:
    """By transform, the target keys that an entry's key may have given, and nobody remembers."""
    found = await _leftovers(entry, context, connection)
    targets = {each.name: each.target for each in context.plan.transforms}
    for transform, spelt in entry.claims:  # as the opposite pipeline's source spells it
        columns = [targets[transform].by_name[name] for name in targets[transform].key]
        key = (await ask_keys(connection, columns, [spelt])).key_or_none(columns, spelt)
        found += [] if key is None else [(transform, key)]
    return found


async def _leftovers(entry: Rederivation, context: Context, connection: Connection) -> list[tuple[str, Key]]:
    """What is left on the target of a thing that is gone: rows that were added there while the other side deleted it.

    The opposite pipeline finds nothing to make of them, so this one has never heard of them.

    :return: by transform that would have given them, their keys.
    """
    if not entry.confirms or entry.lost is None or context.opposite is None:
        return []
    source, key = entry.lost
    found: list[tuple[str, Key]] = []
    for transform in context.plan.transforms:
        if not transform.remembers or transform.source != entry.name:
            continue
        for dependency in context.opposite.dependencies.get(transform.target.name.table, ()):
            if dependency.source == source and dependency.columns is not None:
                keys = await keys_where(connection, transform.target, dict(zip(dependency.columns, key, strict=True)))
                given = await givers(connection, context.direction, [transform.name], keys)
                found += [(transform.name, each) for each in keys if each not in given]
    return found


def _unknown(table: Table) -> Change:
    """Of a row that cannot be read: what hangs on it, nobody knows. It itself will be quarantined, by its key."""
    return Change(RelationName.of(table.name), "truncate")


def _changed(table: Table, entry: Rederivation, image: Image | None) -> Change:
    """The row as the log would bring it: as it is, or gone."""
    relation = RelationName.of(table.name)
    if image is None:
        return Change(relation, "delete", old=_key_image(table, entry.key))
    return Change(relation, "insert", new=image)


def _mark_row(net: NetChanges, plan: Plan, table: Table, entry: Rederivation, change: Change) -> None:
    source = plan.table_source(table.name.table)
    if source is not None:
        net.dirty.setdefault(source.name, set()).add(entry.key)
        net.dates.note(source.name, entry.key, entry.dated)
    gone = change.old or {}
    for dependency in plan.dependencies.get(table.name.table, ()):
        known = dependency.columns is not None and set(dependency.columns) <= gone.keys()
        if change.operation == "insert" or known:
            mark(net, plan, dependency, table, change, entry.dated)
        elif not entry.confirms or change.operation == "truncate":  # what it was a part of, nobody knows any more
            mark(net, plan, dependency, table, Change(change.relation, "truncate"), entry.dated)


def _key_image(table: Table, key: Key) -> Image:
    return dict(zip(table.key, key, strict=True))
