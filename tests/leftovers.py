"""What a test has patched is undone after it in any case.

A coroutine whose event loop is stopped from outside, as by a time limit, leaves its ``with`` blocks late or never. The
tests after it in the same process would then meet its patches, and futures of a loop that is closed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from replicator.runtime import failpoints


@contextmanager
def patched(where: Any, name: str, instead: object) -> Iterator[None]:
    """Patch an attribute for the block, and for no longer than the test."""
    patcher = patch.object(where, name, instead)
    patcher.start()
    try:
        yield
    finally:
        patcher.stop()


def undo() -> None:
    """Undo what ``patched`` and ``failpoints.handled`` have left."""
    patch.stopall()
    failpoints._handlers.clear()
