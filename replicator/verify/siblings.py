"""The source rows from which ``key=`` makes the same target key, because it leaves out a part of the source's key.

While one of them is changed or goes, the row that another one gives may be lost. No change of that other one tells.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from replicator.derive import parse_key
from replicator.pace import Pace
from replicator.plan import PlannedTransform, Source
from replicator.postgres.connect import Connection
from replicator.postgres.source import keys_with
from replicator.tables import Key
from replicator.verify.comparison import Derived


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


async def siblings(reader: Connection, source: Source, derived: Derived) -> set[Key]:
    """The source keys that share a target key with one of these; inside a read point."""
    by_columns: dict[tuple[str, ...], set[Key]] = {}
    pace = Pace()
    for transform in source.transforms:
        if transform.remembers or len(source.key) == 1:
            continue
        keys = [row.source_key for row in derived.rows.get(transform.target.name, [])]
        for key in [*keys, *(each for _, each in derived.absent.get(transform.target.name, []))]:
            await pace.step()
            columns = _looked_at(transform, source, key)
            if 0 < len(columns) < len(source.key):
                by_columns.setdefault(columns, set()).add(tuple(key[source.key.index(name)] for name in columns))
    found: set[Key] = set()
    for columns, values in by_columns.items():
        found |= await keys_with(reader, source, columns, values)
    return found


def _looked_at(transform: PlannedTransform, source: Source, key: Key) -> tuple[str, ...]:
    """The columns of the source's key that the target key follows from, in their order."""
    row = _Noting(parse_key(source, key))
    if transform.key is not None:
        transform.key(row)  # it has succeeded with this key before
    return tuple(_in_order(source, row.seen))


def _in_order(source: Source, names: Iterable[str]) -> Iterator[str]:
    wanted = set(names)
    return (name for name in source.key if name in wanted)
