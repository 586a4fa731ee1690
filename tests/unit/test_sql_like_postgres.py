"""Our reading of SQL is that of Postgres' own parser: ``tests/sql_like_postgres.py``, run in a process of its own.

A C library with an allocator and long jumps of Postgres' own is kept out of the processes in which psycopg runs: one of
them, with both of them loaded, ended with a segmentation fault inside psycopg.
"""

import subprocess
import sys
from pathlib import Path

CHECKS = Path(__file__).parents[1] / "sql_like_postgres.py"


def test_sql_is_read_as_postgres_reads_it() -> None:
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--noconftest", "-o", "addopts=")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(CHECKS)],
        cwd=CHECKS.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
