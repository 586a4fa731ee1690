"""The source rows from which ``key=`` makes the same target key, because it leaves out a part of the source's key.

While one of them is changed or goes, the row that another one gives may be lost. No change of that other one tells.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from replicator.core.pace import Pace
from replicator.core.selects import SelectedKey
from replicator.core.tables import Key
from replicator.mapping.derive import parse_key
from replicator.mapping.plan import PlannedTransform, Source
from replicator.postgres.rows.source import keys_with
from replicator.postgres.session.connect import Connection


class _Noting(dict[str, Any]):
    """A row that notes which of its columns are looked at."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        return super().get(name, default)

    def __iter__(self) -> Iterator[str]:
        self.seen.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        self.seen.update(super().keys())
        return super().keys()

    def values(self) -> Any:
        self.seen.update(super().keys())
        return super().values()

    def items(self) -> Any:
        self.seen.update(super().keys())
        return super().items()


def may_have_siblings(transform: PlannedTransform, source: Source) -> bool:
    """Whether there can be any that are not remembered."""
    return not transform.remembers and len(source.key) > 1


async def siblings(
    reader: Connection, source: Source, transform: PlannedTransform, keys: Iterable[Key]
) -> dict[Key, set[Key]]:
    """For source keys, the keys of other rows that share their target key. Inside a read point of the caller's."""
    by_columns: dict[tuple[str, ...], dict[Key, set[Key]]] = {}
    pace = Pace()
    for key in keys if may_have_siblings(transform, source) else ():
        await pace.step()
        columns = _looked_at(transform, source, key)
        if 0 < len(columns) < len(source.key):
            by_columns.setdefault(columns, {}).setdefault(_part(source, key, columns), set()).add(key)
    found: dict[Key, set[Key]] = {}
    for columns, by_values in by_columns.items():
        for other in await keys_with(reader, source, columns, by_values):
            for key in by_values.get(_part(source, other, columns), set()) - {other}:
                found.setdefault(key, set()).add(other)
    return found


def _part(source: Source, key: Key, columns: Iterable[str]) -> Key:
    return tuple(key[source.key.index(name)] for name in columns)


def _looked_at(transform: PlannedTransform, source: Source, key: Key) -> tuple[str, ...]:
    """The columns of the source's key that the target key follows from, in their order."""
    if isinstance(transform.key, SelectedKey):
        return tuple(_in_order(source, {each.name for each in transform.key.reads}))
    row = _Noting(parse_key(source, key))
    if transform.key is not None:
        transform.key(row)  # it has succeeded with this key before
    return tuple(_in_order(source, row.seen))


def _in_order(source: Source, names: Iterable[str]) -> Iterator[str]:
    wanted = set(names)
    return (name for name in source.key if name in wanted)
