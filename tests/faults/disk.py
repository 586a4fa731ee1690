"""A disk that can be filled: a small file system in memory, which holds the target's database. Mounting needs root."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import psycopg
from psycopg import sql

from tests.faults.stage import Stage
from tests.faults.writers import Sale
from tests.fix_postgres import Database

MEGABYTES: Final = 40
MOUNT: Final = "/usr/bin/mount"
UMOUNT: Final = "/usr/bin/umount"
FULL: Final = "The server's disk is full"
TABLESPACE: Final = "small"


def why_not() -> str | None:
    """Why no disk can be filled here; None when one can."""
    if os.geteuid() != 0:
        return "only root can mount a small file system"
    with tempfile.TemporaryDirectory() as probe:
        done = subprocess.run([MOUNT, "-t", "tmpfs", "tmpfs", probe], check=False, capture_output=True)
        if done.returncode == 0:
            subprocess.run([UMOUNT, probe], check=True)
    return None if done.returncode == 0 else "no file system can be mounted here"


@contextlib.contextmanager
def small_disk(database: Database) -> Iterator[None]:
    """Let a database live on a small disk; the database is to be dropped outside."""
    cluster = database.server.cluster
    assert cluster is not None
    at = folder(database)
    at.mkdir()
    subprocess.run([MOUNT, "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(at)], check=True)
    try:
        data = at / "data"
        data.mkdir()
        cluster._account.own(data)
        with psycopg.connect(database.server.admin_dsn, autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(sql.Identifier(TABLESPACE), str(data)))
            _move(admin, database, TABLESPACE)
        yield
        ballast(database).unlink(missing_ok=True)
        cluster.start()
        with psycopg.connect(database.server.admin_dsn, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database.name])
            _move(admin, database, "pg_default")
            admin.execute(sql.SQL("DROP TABLESPACE {}").format(sql.Identifier(TABLESPACE)))
    finally:
        subprocess.run([UMOUNT, "--lazy", str(at)], check=True)


def _move(admin: "psycopg.Connection[tuple[object, ...]]", database: Database, tablespace: str) -> None:
    admin.execute(
        sql.SQL("ALTER DATABASE {} SET TABLESPACE {}").format(sql.Identifier(database.name), sql.Identifier(tablespace))
    )


def folder(database: Database) -> Path:
    """Where the small disk of a database is mounted."""
    cluster = database.server.cluster
    assert cluster is not None
    return cluster.folder / f"disk-{database.name}"


def ballast(database: Database) -> Path:
    """The file that fills it."""
    return folder(database) / "ballast"


def fill(stage: Stage, chance: Random) -> None:
    """Fill the disk until the daemon has ended by it, and then a little longer."""
    with ballast(stage.new).open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
            file.flush()

    def ended() -> bool:
        stage.hand.do(Sale(["long " * 100] * 20))
        return any(FULL in life.log for life in stage.keeper.lives)

    stage.until("the daemon to end by the full disk", ended)
    time.sleep(chance.uniform(0, 1))
    ballast(stage.new).unlink()
