"""A row that notes which of its columns are read."""

from collections.abc import Iterator
from typing import Any

from replicator.core.tables import Row


class TracedRow(dict[str, Any]):
    """Reads as the dict that it is; whoever takes it whole has read all of it."""

    def __init__(self, row: Row, read: set[str]) -> None:
        super().__init__(row)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    # Because this is not dict's own, ``{**row}`` and ``dict(row)`` come through keys() and __getitem__.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def get(self, name: str, default: Any = None) -> Any:
        """As dict's; one column is read."""
        self._read.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        """As dict's; one column is read."""
        self._read.add(name)
        return super().pop(name, *default)

    def items(self) -> Any:
        """As dict's; every column is read."""
        self._read.update(super().keys())
        return super().items()

    def values(self) -> Any:
        """As dict's; every column is read."""
        self._read.update(super().keys())
        return super().values()

    def copy(self) -> dict[str, Any]:
        """A plain dict; every column is read."""
        return dict(self.items())
