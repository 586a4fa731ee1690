"""The first drafts: the old tables as they are, whose columns are then dropped and renamed."""

from collections.abc import Mapping
from typing import Final

from replicator.core.copies import Copy
from replicator.core.tables import Name
from replicator.postgres.attached import Attached, attached
from replicator.postgres.drafts.bench import LAST, Bench
from replicator.postgres.drafts.model import Draft
from replicator.postgres.drafts.naming import beside_called
from replicator.postgres.drafts.remarks import not_carried, went_along
from replicator.postgres.trying.rehearsal import try_statement

OF_ONE_COLUMN: Final = frozenset({
    "column", "default", "identity", "not null", "storage", "compression", "statistics target", "column options",
    "sequence",
})  # fmt: skip


async def as_they_are(bench: Bench) -> None:
    """Make them; after it the columns have their new names, and ``remarks`` say what has gone with a column."""
    await bench.make_schema(bench.first)
    for each in bench.drafts:
        await _make(bench, each)
    for each in bench.drafts:
        await _make_keys(bench, each)
    await _drop(bench)
    for each in bench.drafts:
        await _rename(bench, each.copy)


async def _make(bench: Bench, draft: Draft) -> None:
    copy, items = draft.copy, draft.original.items
    table = Name(schema=bench.first, table=copy.into)
    key = next((each.fragment for each in items if each.kind == "partition key"), ())
    await bench.create(table, [each for each in items if each.kind == "column"], key, copy)
    for each in items:
        if each.kind in ("column", "partition key", "foreign key", *LAST):
            continue
        if remark := not_carried(each, bench.shown(each, copy)):
            draft.remarks.append(remark)
        elif error := await bench.put(each, table):
            draft.remarks.append(bench.refusal(each, copy, error))


async def _make_keys(bench: Bench, draft: Draft) -> None:
    """And comments, which may be on keys."""
    copy = draft.copy
    table, called = Name(schema=bench.first, table=copy.into), default_names(draft)
    for each in draft.original.items:
        if each.kind == "comment":
            await bench.put(beside_called(each, called), table)  # where it fails, what it is on has been told
        if each.kind != "foreign key":
            continue
        if remark := not_carried(each, bench.shown(each, copy)):
            draft.remarks.append(remark)
        elif error := await bench.put(each, table, await _parent(bench, each)):
            draft.remarks.append(bench.refusal(each, copy, error))


async def _parent(bench: Bench, key: Attached) -> Mapping[Name, Name]:
    """What stands for the parent of a foreign key; one that is copied does so itself."""
    if key.parent is None:
        return {}
    for each in bench.drafts:
        if key.parent == Name(schema=bench.old, table=each.copy.source):
            return {key.parent: Name(schema=bench.first, table=each.copy.into)}
    stub = Name(schema=bench.first, table=f"replicator_parent_{len(bench.stands_in)}")
    columns = ", ".join(bench.quote(each) for each in key.parent_columns)
    made = f"CREATE TABLE {bench.full(stub)} AS SELECT {columns} FROM {bench.full(key.parent)} WITH NO DATA"
    await try_statement(bench.connection, f"{made}; ALTER TABLE {bench.full(stub)} ADD UNIQUE ({columns})")
    bench.stands_in[stub] = key.parent
    return {key.parent: stub}


async def _drop(bench: Bench) -> None:
    if not any(each.copy.drop for each in bench.drafts):
        return
    names = [each.copy.into for each in bench.drafts]
    before = await attached(bench.connection, bench.first, names)
    for each in bench.drafts:
        for column in each.copy.drop:
            await bench.must(f"{_alter(bench, each.copy)} DROP COLUMN {bench.quote(column)} CASCADE", each.copy)
    after = await attached(bench.connection, bench.first, names)
    for each in bench.drafts:
        kept = {(one.kind, one.name, one.of) for one in after[each.copy.into]}
        gone = [one for one in before[each.copy.into] if (one.kind, one.name, one.of) not in kept]
        each.remarks += [
            went_along(one, each.copy, bench.shown(one, each.copy)) for one in gone if _is_missed(one, each.copy)
        ]


def _is_missed(item: Attached, copy: Copy) -> bool:
    """Whether it has said something of what is left: not so of what belonged to the columns that are dropped alone."""
    if item.kind in LAST or (item.columns and set(item.columns) <= set(copy.drop)):
        return item.kind == "primary key"
    return item.kind not in OF_ONE_COLUMN or item.columns[0] not in copy.drop


async def _rename(bench: Bench, copy: Copy) -> None:
    """Over names that no column has: two columns may change names."""
    passing = {old: f"replicator_column_{place}" for place, old in enumerate(copy.rename)}
    for one, other in [*passing.items(), *((passing[old], new) for old, new in copy.rename.items())]:
        await bench.must(f"{_alter(bench, copy)} RENAME COLUMN {bench.quote(one)} TO {bench.quote(other)}", copy)


def _alter(bench: Bench, copy: Copy) -> str:
    return f"ALTER TABLE {bench.full(Name(schema=bench.first, table=copy.into))}"


# ---- sequences whose names Postgres has chosen


def default_names(draft: Draft) -> dict[str, str]:
    """What the sequence of an identity is called on a table of another name, where nobody has chosen its name."""
    copy = draft.copy
    columns = [each.name for each in draft.original.items if each.kind == "identity"]
    return {f"{copy.source}_{each}_seq": f"{copy.into}_{each}_seq" for each in columns}
