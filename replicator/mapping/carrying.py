"""Copies against the catalogue: which columns pass, which keys can be computed, what of a declaration does not fit."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from replicator.core.casts import quoted
from replicator.core.copies import Carrying, Copy, Row
from replicator.core.tables import Column, Table
from replicator.migration import Direction, Migration, Transform

ZONED: Final = frozenset({"timestamp with time zone", "time with time zone"})
ZONELESS: Final = frozenset({"timestamp without time zone", "time without time zone", "date"})


def with_key(transform: Transform, tables: Mapping[str, Table]) -> Transform:
    """A transform whose query over one table has that table's primary key; others as they are."""
    query = transform.source
    if isinstance(query, str) or not query.copied or query.copied not in tables:
        return transform
    key = tables[query.copied].key
    return replace(transform, source=replace(query, key=key, depends_on={query.copied: key}))


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a copy does with the rows of the tables that there are."""

    carrying: Carrying
    names: Mapping[str, str]
    """By column of the row, what it is called in the other table: those that pass."""
    key: tuple[tuple[str, str], ...] | None
    """The columns of the other table's key, each with the column of the source key that it is; None: not all are."""
    forgotten: tuple[str, ...]
    """Columns that the other table has no place for, and the declaration does not name."""

    def function(self, row: Row) -> dict[str, Any]:
        """The transform."""
        return self.carrying.carry(row, self.names)

    def target_key(self, row: Row) -> dict[str, Any]:
        """The target's key, from the source's."""
        return self.carrying.carry_key(row, self.key or ())


def bound(carrying: Carrying, source: Table, target: Table, columns: Iterable[str]) -> Bound:
    """A copy's function, for two tables.

    :param source: the table that is copied.
    :param columns: those of the rows: of the table, or of the query over it.
    """
    generated = {each.name for each in target.columns if each.generated}
    named = {name: carrying.names.get(name, name) for name in columns if name not in carrying.left_out}
    return Bound(
        carrying=carrying,
        names={name: other for name, other in named.items() if other in target.by_name and other not in generated},
        key=_key(carrying, source, target),
        forgotten=tuple(f"{source.name}.{name}" for name, other in named.items() if other not in target.by_name),
    )


def _key(carrying: Carrying, source: Table, target: Table) -> tuple[tuple[str, str], ...] | None:
    passed = {carrying.names.get(name, name): name for name in source.key if name not in carrying.left_out}
    if not set(target.key) <= passed.keys() or set(target.key) & set(carrying.added):
        return None
    for name in target.key:
        old, new = source.by_name[passed[name]].form, target.by_name[name].form
        alike = (old.family, old.asked) == (new.family, new.asked) and passed[name] not in carrying.functions
        # A key is one of several spellings. What the row has may be another, and so another key in the target.
        if old.spelt_apart and not alike:
            return None
    return tuple((name, passed[name]) for name in target.key)


# ---- what does not fit


def copy_misfits(
    migration: Migration, direction: Direction, source_tables: Mapping[str, Table], target_tables: Mapping[str, Table]
) -> Iterator[str]:
    """A sentence for each thing that the tables contradict in a copy. That a table is not there, others say."""
    for copy in migration.copies:
        forward = direction == "forward"
        if not forward and not copy.way_back:
            continue
        source = source_tables.get(copy.source if forward else copy.into)
        target = target_tables.get(copy.into if forward else copy.source)
        if source is None or target is None:
            continue
        carrying = copy.forward() if forward else copy.reverse()
        found = [
            *(_forward_misfits(copy, source, target) if forward else _reverse_misfits(migration, copy, source, target)),
            *_unwritable(carrying, source, target),
            *_unread(carrying, source, target, forward=forward),
        ]
        yield from (f"the copy of {copy.source}: {problem}" for problem in found)


def _forward_misfits(copy: Copy, old: Table, new: Table) -> Iterator[str]:
    for what, named in (("rename=", copy.rename), ("cast=", copy.cast), ("drop=", copy.drop)):
        for column in named:
            if column not in old.by_name:
                yield f"{what} names {column}, and {old.name} has no such column"
    for column, other in copy.rename.items():
        if column in old.by_name and other not in new.by_name:
            yield f"{column} is renamed to {other}, and {new.name} has no such column"
    called = dict.fromkeys(copy.add, "add=")
    for column in old.by_name:
        new_name = copy.new_name(column)
        if new_name is not None and called.setdefault(new_name, column) != column:
            yield f"{column} and {called[new_name]} both supply {new_name}; rename= or drop= one of them"
    yield from _wrong_additions(copy, new)
    yield from _casts_to_the_same(copy, old, new)


def _wrong_additions(copy: Copy, new: Table) -> Iterator[str]:
    for column, addition in copy.add.items():
        if column not in new.by_name:
            yield f"add= names {column}, and {new.name} has no such column"
        elif addition.function is None and column in new.key:
            yield (
                f"add= leaves {column} to its default, and it is in the primary key of {new.name}, by which rows are "
                f'found again; write {{"{column}": ("TYPE", FUNCTION)}} with a function of the old row'
            )
        elif addition.function is None and _must_be_given(new.by_name[column]):
            yield (
                f"add= says nothing of the value of {column}, and {new.name} has neither NULL nor a default for it; "
                f'write {{"{column}": ("TYPE", FUNCTION)}} with a function of the old row, or give it a default'
            )


def _casts_to_the_same(copy: Copy, old: Table, new: Table) -> Iterator[str]:
    """A new table that was made like the old one, by mistake, would keep what the cast was to mend."""
    for column, cast in copy.cast.items():
        was, becomes = old.by_name.get(column), new.by_name.get(copy.rename.get(column, column))
        plain = cast.using is None and cast.function is None
        if plain and was is not None and becomes is not None and was.type == becomes.type:
            yield (
                f"{column} is cast to {cast.type}, and has the type {was.type} in both tables; change the new table in "
                "sql/new, or take it out of cast="
            )


def _reverse_misfits(migration: Migration, copy: Copy, new: Table, old: Table) -> Iterator[str]:
    for column in copy.drop:
        if column in copy.restore or column not in old.by_name:
            continue
        if column in old.key:
            yield (
                f"{column} is dropped, and is in the primary key of {old.name}, so no row could come back; keep it, or "
                "say in back= what it is for a new row, or pass way_back=False"
            )
        elif _must_be_given(old.by_name[column]):
            yield (
                f"{column} is dropped, and takes neither NULL nor a default, so no row that is new could come back; "
                f'ALTER TABLE {old.name} ALTER "{column}" DROP NOT NULL, or give it a default, or say in back= what it '
                "is for a new row"
            )
    others = [each for each in migration.of("forward") if each.into == copy.into and not _is_of(each, copy)]
    for each in others:
        yield (
            f"the transform {each.name} fills {new.name} too, and its rows would come back into {old.name}; pass "
            "way_back=False and write the reverse transforms"
        )


def _must_be_given(column: Column) -> bool:
    return column.not_null and not column.has_default and not column.generated


def _is_of(transform: Transform, copy: Copy) -> bool:
    return isinstance(transform.function, Carrying) and transform.table == copy.source


def _passing(carrying: Carrying, source: Table, target: Table) -> Iterator[tuple[str, str]]:
    for name in source.by_name:
        other = carrying.names.get(name, name)
        if name not in carrying.left_out and other in target.by_name:
            yield name, other


def _unwritable(carrying: Carrying, source: Table, target: Table) -> Iterator[str]:
    """A value that cannot be given would be lost without a word."""
    for _, other in _passing(carrying, source, target):
        if other in target.unwritable and not target.by_name[other].generated:
            yield (
                f"{target.name}.{other} is GENERATED ALWAYS AS IDENTITY, so its values cannot be carried over; "
                f'ALTER TABLE {target.name} ALTER "{other}" SET GENERATED BY DEFAULT'
            )


def _unread(carrying: Carrying, source: Table, target: Table, *, forward: bool) -> Iterator[str]:
    """What the text of a value means in another type, and SQL's own cast does not."""
    for name, other in _passing(carrying, source, target):
        if name in carrying.functions:
            continue
        old, new = source.by_name[name], target.by_name[other]
        column, where = (name, "cast") if forward else (other, "back")
        pair = f"{source.name}.{name} is of type {old.type}, and {target.name}.{other} of type {new.type}"
        if {old.form.base, new.form.base} & ZONED and {old.form.base, new.form.base} & ZONELESS:
            using = f"{quoted(name)} AT TIME ZONE 'UTC'"
            yield f'{pair}; say which time zone is meant: {where}={{"{column}": "{new.type} USING {using}"}}'
        elif old.form.family == "blanks" and new.form.family == "text":
            using = f"{quoted(name)}::text"
            yield f'{pair}, to which blanks at the end matter; write {where}={{"{column}": "{new.type} USING {using}"}}'
