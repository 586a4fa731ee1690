"""What all tests share: the servers, and a marker for each kind of test, given by its folder."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import leftovers

pytest_plugins = ["tests.fix_postgres", "tests.fix_types_table"]

KINDS = ("unit", "integration", "faults", "acceptance")

MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 -- each makes folders of its own in it
ENOUGH_MEMORY = 12 * 2**30
"""In bytes; the tests' files take up to 5 GiB of it."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """Keep temporary files in memory where there is plenty: thousands of databases are made and dropped.

    Each has hundreds of files; a fifth of all the time went into the file system's looking for free ones.
    """
    if "TMPDIR" in os.environ or not MEMORY_FOLDER.is_dir():
        return
    plenty = min(psutil.virtual_memory().available, shutil.disk_usage(MEMORY_FOLDER).free) >= ENOUGH_MEMORY
    if plenty and os.access(MEMORY_FOLDER, os.W_OK) and not os.statvfs(MEMORY_FOLDER).f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY_FOLDER)  # for the processes that are started, and this


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        kind = item.path.relative_to(here).parts[0]
        if kind not in KINDS:
            raise pytest.UsageError(
                f"{item.path} is in none of the folders tests/{{{','.join(KINDS)}}}: move it to one."
            )
        item.add_marker(kind)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Set up before all others of a test, and so torn down after them: after its event loop is closed, too."""
    yield
    leftovers.undo()
