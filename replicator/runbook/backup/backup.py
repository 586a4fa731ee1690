"""A backup, from the snapshot to the entry in the journal."""

import asyncio
import contextlib
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.errors import ReplicatorError
from replicator.migration import Migration
from replicator.postgres.catalog.backups import (
    Facts,
    count_rows,
    program_environment,
    read_facts,
    shared_snapshot,
    tables_of,
)
from replicator.postgres.control.journal import record
from replicator.postgres.control.mailbox import operator
from replicator.postgres.session.connect import Connection, connection
from replicator.runbook.backup.folder import files_of, finish, make_folder, size_of
from replicator.runbook.backup.programs import BackupError, run_program
from replicator.runbook.backup.restoring import Scratch, restore_test, scratch_database
from replicator.runtime.binaries import dump_programs, output_of
from replicator.settings import Settings

DATA = "data"
"""The dump, in the form of pg_dump --format=directory."""
LOOK_SECONDS = 0.5
TABLE_BEGUN = re.compile(r"(?:dumping contents of|processing data for) table")

Watch = Callable[[str, str], None]
"""Told the step that goes on, and how far it is."""


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A finished backup; ``entered`` is False where there is no journal yet."""

    folder: Path
    manifest: dict[str, Any]
    manifest_sha256: str
    entered: bool

    @property
    def bytes(self) -> int:
        """The size of the dump."""
        return sum(each["bytes"] for each in self.manifest["files"])


class UnprovedError(BackupError):
    """The dump is complete, but restoring it has failed."""


async def back_up(
    settings: Settings,
    migration: Migration,
    parent: Path,
    watch: Watch,
    *,
    test: bool = True,
    restore_dsn: str | None = None,
) -> Backup:
    """Dump the old schema's whole database into a new folder, and prove it by restoring it.

    :param restore_dsn: the server for the restore test; without it, the one that is backed up.
    :raises BackupError: nothing is left behind, save for a dump that could not be restored: its name ends in .partial.
    :raises CheckError: there is no fitting pg_dump, or a privilege is missing.
    """
    async with connection(settings.source, "backup") as source, contextlib.AsyncExitStack() as stack:
        facts = await read_facts(source)
        programs = await asyncio.to_thread(dump_programs, facts.major)
        scratch = None
        if test:
            making = scratch_database(restore_dsn or settings.source, facts, same_server=restore_dsn is None)
            scratch = await stack.enter_async_context(making)
        folder = make_folder(parent, facts.database, facts.table_bytes)
        with _removed_on_failure(folder):
            manifest = await _dump(_Job(settings, migration, source, facts, programs, folder, watch))
            manifest["restore_test"] = await _prove(
                folder, programs, manifest["rows"], scratch, settings.workers, watch
            )
            named, checksum = finish(folder, manifest)
    entered = await _enter(settings.target, named, manifest, checksum)
    return Backup(folder=named, manifest=manifest, manifest_sha256=checksum, entered=entered)


@dataclass(frozen=True)
class _Job:
    settings: Settings
    migration: Migration
    source: Connection
    facts: Facts
    programs: Path
    folder: Path
    watch: Watch


async def _dump(job: _Job) -> dict[str, Any]:
    """Count and dump at one snapshot; gives the manifest."""
    began = time.monotonic()
    environment = program_environment(job.source)
    async with shared_snapshot(job.source) as snapshot:
        job.watch("counting rows", "")
        rows = await count_rows(job.source, await tables_of(job.source, (job.migration.old, job.migration.new)))
        shared: list[str | Path] = [
            job.programs / "pg_dump",
            f"--snapshot={snapshot.name}",
            "--verbose",
            "--no-password",
        ]
        schema = ["--schema-only", f"--file={job.folder / 'schema.sql'}"]
        data = ["--format=directory", f"--jobs={job.settings.workers}", f"--file={job.folder / DATA}"]
        async with _progress("dumping", job.folder, job.facts.tables, job.watch) as hear:
            await run_program([*shared, *schema], environment, lambda _: None)
            await run_program([*shared, *data], environment, hear)
    job.watch("taking checksums", "")
    return {
        "database": job.facts.database,
        "taken_at": snapshot.taken_at.isoformat(),
        "lsn": snapshot.lsn,
        "server_version": job.facts.server_version,
        "pg_dump_version": output_of([job.programs / "pg_dump", "--version"]).strip(),
        "seconds": round(time.monotonic() - began, 3),
        "rows": rows,
        "files": await asyncio.to_thread(files_of, job.folder),
    }


async def _prove(
    folder: Path, programs: Path, rows: dict[str, int], scratch: Scratch | None, jobs: int, watch: Watch
) -> dict[str, Any]:
    """What the manifest says of the restore test."""
    if scratch is None:
        return {"done": False, "because": "--no-restore-test"}
    began = time.monotonic()
    async with _progress("restoring into a scratch database", None, len(rows), watch) as hear:
        try:
            await restore_test(folder / DATA, programs, rows, scratch, jobs, hear)
        except ReplicatorError as error:
            raise UnprovedError(
                error.problem, f"Do not rely on the dump; it is left in {folder} to look into."
            ) from error
    return {"done": True, "database": scratch.name, "tables": len(rows), "seconds": round(time.monotonic() - began, 3)}


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except UnprovedError:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.asynccontextmanager
async def _progress(step: str, folder: Path | None, tables: int, watch: Watch) -> AsyncIterator[Callable[[str], None]]:
    """Tell how far it is: tables by what the program says, bytes by what is in the folder."""
    begun = 0

    def hear(line: str) -> None:
        nonlocal begun
        begun += bool(TABLE_BEGUN.search(line))

    async def look() -> None:
        while True:
            size = f", {size_of(folder):,} bytes" if folder else ""
            watch(step, f"table {begun} of {tables}{size}")
            await asyncio.sleep(LOOK_SECONDS)

    looking = asyncio.create_task(look())
    try:
        yield hear
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _enter(target: str, folder: Path, manifest: dict[str, Any], checksum: str) -> bool:
    return await record(
        target,
        "backup",
        {
            "folder": str(folder),
            "taken_at": manifest["taken_at"],
            "bytes": sum(each["bytes"] for each in manifest["files"]),
            "tables": len(manifest["rows"]),
            "rows": sum(manifest["rows"].values()),
            "manifest_sha256": checksum,
            "restore_tested": manifest["restore_test"]["done"],
            "seconds": manifest["seconds"],
            "by": operator(),
        },
    )
