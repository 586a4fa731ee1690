"""Keys that wait on disk because memory must stay bounded: first in, first out, and gone with the process."""

import contextlib
import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from replicator.core.tables import Key

SEGMENT_KEYS = 100_000
"""So many keys are in one file, some megabytes: when they have all been taken, the disk gets them back."""


@dataclass
class Segment:
    """One file of the queue. ``begins`` is the position of its first byte in all that was ever put into the queue."""

    file: IO[bytes]
    begins: int
    size: int = 0
    keys: int = 0

    @property
    def ends(self) -> int:
        """The position behind it."""
        return self.begins + self.size

    def close(self) -> None:
        """Give the disk back. What could not be written before is not written now, and no error."""
        with contextlib.suppress(OSError):
            self.file.close()


class Spill:
    """A queue of keys in unnamed temporary files, the first of which is made when the first key comes."""

    def __init__(self) -> None:
        self._segments: deque[Segment] = deque()
        self._head = 0
        """The position of the first key that has not been dropped."""
        self._count = 0
        self.cleared = 0
        """How often it has been cleared: positions from before mean nothing any more."""

    def __del__(self) -> None:
        self.clear()

    def __len__(self) -> int:
        return self._count

    def append(self, keys: Iterable[Key]) -> None:
        """Put keys at the end. Raises OSError when the disk does not take them: then what it holds is incomplete."""
        segment = self._last()
        for key in keys:
            if segment.keys >= SEGMENT_KEYS:
                segment = self._last()
            line = json.dumps(key).encode() + b"\n"
            segment.file.write(line)
            segment.size += len(line)
            segment.keys += 1
            self._count += 1
        segment.file.flush()

    def _last(self) -> Segment:
        """The one to write to, at its end."""
        if not self._segments or self._segments[-1].keys >= SEGMENT_KEYS:
            begins = 0
            if self._segments:
                self._segments[-1].file.flush()
                begins = self._segments[-1].ends
            file = TemporaryFile(prefix="replicator-")  # noqa: SIM115  it lives as long as its keys
            self._segments.append(Segment(file, begins))
        self._segments[-1].file.seek(0, 2)
        return self._segments[-1]

    def first(self, limit: int) -> tuple[list[Key], int]:
        """Up to ``limit`` keys from the head, which stay there, and the position behind them, for ``drop``."""
        keys: list[Key] = []
        position = self._head
        for segment in self._segments:
            segment.file.seek(position - segment.begins)
            while len(keys) < limit and (line := segment.file.readline()):
                keys.append(tuple(json.loads(line)))
                position += len(line)
            if len(keys) == limit:
                break
        return keys, position

    def drop(self, keys: int, behind: int) -> None:
        """Drop so many keys from the head, as ``first`` returned them with the position behind them."""
        self._head = behind
        self._count -= keys
        if self._count <= 0:
            self.clear()
        while self._segments and self._segments[0].ends <= behind:
            self._segments.popleft().close()

    def clear(self) -> None:
        """Drop all, and give the disk back."""
        while self._segments:
            self._segments.popleft().close()
        self._head, self._count = 0, 0
        self.cleared += 1
