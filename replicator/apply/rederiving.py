"""From what is noted to be derived again to a batch."""

from collections.abc import Iterable

from replicator.apply.batch import Batch, mark
from replicator.changes import Change, Image
from replicator.plan import Plan
from replicator.postgres.connect import Connection
from replicator.postgres.redo import Redo
from replicator.postgres.source import read_images
from replicator.tables import Key, Table


async def rederiving(entries: Iterable[Redo], plan: Plan, reader: Connection) -> Batch:
    """The source keys that these entries mean, each with its date. ``reader`` leads to the source, and gives text."""
    batch = Batch()
    rows: dict[str, list[Redo]] = {}
    for each in entries:
        if each.what == "row":
            rows.setdefault(each.name, []).append(each)
        elif each.name in plan.sources:
            batch.dirty.setdefault(each.name, set()).add(each.key)
            batch.dates.note(each.name, each.key, each.dated)
    for name, of_table in rows.items():
        table = plan.watched.get(name)
        if table is None:
            continue  # nothing is derived from it
        images = await read_images(reader, table, {each.key for each in of_table})
        for each in of_table:
            _mark_row(batch, plan, table, each, images.get(each.key))
    return batch


def _mark_row(batch: Batch, plan: Plan, table: Table, entry: Redo, image: Image | None) -> None:
    source = plan.table_source(table.name.table)
    if source is not None:
        batch.dirty.setdefault(source.name, set()).add(entry.key)
        batch.dates.note(source.name, entry.key, entry.dated)
    relation = (table.name.schema, table.name.table)
    gone = _key_image(table, entry.key)
    for dependency in plan.dependencies.get(table.name.table, ()):
        if image is not None:
            mark(batch, plan, dependency, Change(relation, "insert", new=image), entry.dated)
        elif dependency.columns is not None and set(dependency.columns) <= gone.keys():
            mark(batch, plan, dependency, Change(relation, "delete", old=gone), entry.dated)
        else:  # what the row that is gone was a part of, nobody knows any more
            mark(batch, plan, dependency, Change(relation, "truncate"), entry.dated)


def _key_image(table: Table, key: Key) -> Image:
    return dict(zip(table.key, key, strict=True))
