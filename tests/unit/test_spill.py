"""Keys that wait on disk: in order, in bounded space, and whatever the disk does."""

import errno
import io
from tempfile import TemporaryFile
from typing import IO, Any

import pytest

from replicator.core import spill
from replicator.core.dirty_keys import DirtyKeys
from replicator.core.spill import Spill
from replicator.core.tables import Key


def keys(first: int, beyond: int) -> list[Key]:
    return [(str(number), "ä\n") for number in range(first, beyond)]


def taken(queue: Spill, limit: int) -> list[Key]:
    found, behind = queue.first(limit)
    queue.drop(len(found), behind)
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "SEGMENT_KEYS", 10)


@pytest.mark.usefixtures("small")
def test_first_in_first_out_across_files() -> None:
    queue, last = Spill(), 0
    found: list[Key] = []
    for step in range(1, 40):
        queue.append(keys(last, last + step))
        last += step
        assert queue.first(7) == queue.first(7), "looking takes nothing"
        found += taken(queue, step - step % 3)
    assert len(queue) == last - len(found)
    assert found + taken(queue, last) == keys(0, last)
    assert len(queue) == 0
    assert taken(queue, 5) == []


@pytest.mark.usefixtures("small")
def test_the_disk_gets_back_what_was_taken_though_the_queue_is_never_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[IO[bytes]] = []

    def noted(**options: Any) -> IO[bytes]:
        made.append(TemporaryFile(**options))  # noqa: SIM115  the queue closes it
        return made[-1]

    monkeypatch.setattr(spill, "TemporaryFile", noted)
    queue = Spill()
    for first in range(0, 1_000, 10):
        queue.append(keys(first, first + 10))
        if first >= 20:
            assert len(taken(queue, 10)) == 10
        assert sum(not file.closed for file in made) <= 4
    assert len(queue) == 20


class Full(io.RawIOBase):
    """A file on a disk that is full."""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, _offset: int, _whence: int = 0) -> int:
        return 0

    def write(self, _data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written cannot be flushed, not even when the file is closed."""
    monkeypatch.setattr(spill, "TemporaryFile", lambda **_: io.BufferedRandom(Full()))


def test_a_full_disk_is_said_once_and_stands_in_no_ones_way(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Spill()
    with monkeypatch.context() as patched:
        limited(patched)
        with pytest.raises(OSError, match="No space left"):
            queue.append(keys(0, 5))
        queue.clear()
    queue.append(keys(0, 5))
    assert taken(queue, 9) == keys(0, 5)


def test_on_a_full_disk_the_whole_source_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch)
    log = DirtyKeys(capacity=4)
    log.start_keeping()
    for first in range(0, 50, 5):
        log.touch("t", keys(first, first + 5))
    assert log.waits_whole("t")
