"""The proof of a backup: it is restored into a scratch database, and its rows are counted."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from replicator.errors import CheckError
from replicator.postgres.catalog.backups import (
    Facts,
    count_rows,
    create_scratch,
    database_dsn,
    drop_scratch,
    program_environment,
    tables_of,
)
from replicator.postgres.session.connect import connection
from replicator.runbook.backup.programs import BackupError, run_program

RESTORE = ("--no-owner", "--no-privileges", "--no-publications", "--no-subscriptions", "--no-password", "--verbose")
"""Roles may be missing on another server, and a scratch database publishes nothing."""


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """An empty database to restore into; ``environment`` leads pg_restore to it."""

    name: str
    dsn: str
    environment: Mapping[str, str]


@asynccontextmanager
async def scratch_database(dsn: str, facts: Facts, *, same_server: bool) -> AsyncIterator[Scratch]:
    """A database for the restore test, dropped at the end of the block, however it ends.

    :param dsn: leads to any database of the server on which it is made.
    :raises CheckError: when the role may not make one.
    """
    name = f"replicator_restore_test_{datetime.now(UTC):%Y%m%d%H%M%S}_{os.getpid()}"
    async with connection(dsn, "restore test") as admin:
        try:
            await create_scratch(admin, name, facts, same_server=same_server)
        except CheckError as error:
            raise CheckError(
                f"The restore test cannot make a database of its own: {error.problem}",
                "ALTER ROLE ... CREATEDB, or name another server with --restore-dsn, or --no-restore-test.",
            ) from error
        made = Scratch(name=name, dsn=database_dsn(admin, dsn, name), environment=program_environment(admin, name))
    try:
        yield made
    finally:
        await asyncio.shield(drop_scratch(dsn, name))


async def restore_test(
    dump: Path, programs: Path, rows: Mapping[str, int], scratch: Scratch, jobs: int, hear: Callable[[str], None]
) -> None:
    """Restore a dump, and compare its row counts.

    :param rows: by table, what must be there.
    :raises BackupError: with pg_restore's first error, or naming the tables whose rows are not all there.
    """
    command: list[str | Path] = [programs / "pg_restore", *RESTORE, f"--jobs={jobs}", f"--dbname={scratch.name}", dump]
    await run_program(command, scratch.environment, hear)
    async with connection(scratch.dsn, "restore test") as restored:
        schemas = sorted({each.partition(".")[0] for each in rows})
        there = [name for name in await tables_of(restored, schemas) if str(name) in rows]
        counted = await count_rows(restored, there)
    wrong = [
        f"{table} ({'missing' if table not in counted else f'{counted[table]} rows'} instead of {expected})"
        for table, expected in rows.items()
        if counted.get(table) != expected
    ]
    if wrong:
        raise BackupError(f"What was restored is not what was dumped: {', '.join(wrong)}.")
