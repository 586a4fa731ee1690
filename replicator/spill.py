"""Keys that wait on disk because memory must stay bounded: first in, first out, and gone with the process."""

import json
from collections.abc import Iterable
from tempfile import TemporaryFile
from typing import IO

from replicator.tables import Key


class Spill:
    """A queue of keys in an unnamed temporary file, which is made when the first key comes."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._head = 0
        self._count = 0
        self.cleared = 0
        """How often it has been cleared: positions from before mean nothing any more."""

    def __del__(self) -> None:
        self.clear()

    def __len__(self) -> int:
        return self._count

    def append(self, keys: Iterable[Key]) -> None:
        """Put keys at the end. Raises OSError when the disk does not take them: then what it holds is incomplete."""
        if self._file is None:
            self._file = TemporaryFile(prefix="replicator-")  # noqa: SIM115  it lives as long as the queue
        lines = [json.dumps(key).encode() + b"\n" for key in keys]
        self._file.seek(0, 2)
        self._file.writelines(lines)
        self._file.flush()
        self._count += len(lines)

    def first(self, limit: int) -> tuple[list[Key], int]:
        """Up to ``limit`` keys from the head, which stay there, and the position behind them, for ``drop``."""
        if self._file is None:
            return [], 0
        self._file.seek(self._head)
        keys: list[Key] = []
        while len(keys) < limit and (line := self._file.readline()):
            keys.append(tuple(json.loads(line)))
        return keys, self._file.tell()

    def drop(self, keys: int, behind: int) -> None:
        """Drop so many keys from the head, as ``first`` returned them with the position behind them."""
        self._head = behind
        self._count -= keys
        if self._count <= 0:
            self.clear()

    def clear(self) -> None:
        """Drop all, and give the disk back."""
        if self._file is not None:
            self._file.close()
        self._file, self._head, self._count = None, 0, 0
        self.cleared += 1
