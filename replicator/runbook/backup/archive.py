"""Archives of old tables: each a compressed file that is read back before anybody relies on it."""

import asyncio
import gzip
import hashlib
import os
import shlex
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from replicator.postgres.catalog.backups import program_environment, read_facts, shared_snapshot
from replicator.postgres.ddl.archives import Fingerprint, OldTable, copy_out, fingerprint, see_every_row, sequence_state
from replicator.postgres.session.connect import Connection
from replicator.runbook.backup.folder import file_sha256, finish, make_folder
from replicator.runbook.backup.programs import BackupError, run_program
from replicator.runtime.binaries import dump_programs

BLOCK = 1 << 20
LEVEL = 6
ROWS, DDL = ".copy.gz", ".sql"
"""How the two files of a table end."""

Watch = Callable[[str, str], None]
"""Told the step that goes on, and how far it is."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A finished archive; ``fingerprints`` are of the rows that are in it, by table."""

    folder: Path
    manifest: dict[str, Any]
    manifest_sha256: str
    fingerprints: dict[str, Fingerprint]

    @property
    def bytes(self) -> int:
        """The size of the files with rows."""
        return sum(each["bytes"] for each in self.manifest["tables"])


async def make_archive(source: Connection, tables: Sequence[OldTable], parent: Path, watch: Watch) -> Archive:
    """Write the tables as they are at one snapshot into a new folder, and read every file back.

    :raises BackupError: a file is not what was written; nothing is left behind then.
    :raises CheckError: there is no fitting pg_dump.
    """
    facts = await read_facts(source)
    programs = await asyncio.to_thread(dump_programs, facts.major)
    folder = make_folder(parent, facts.database, sum(each.bytes for each in tables), kind="archive")
    try:
        described, fingerprints = [], {}
        async with shared_snapshot(source) as snapshot:
            await see_every_row(source)
            for number, table in enumerate(tables, 1):
                watch("archiving", f"{table}, table {number} of {len(tables)}")
                fingerprints[str(table)] = await fingerprint(source, table)
                described.append(await _write(source, folder, table))
                await _write_ddl(source, folder, table, programs, snapshot.name)
        for each in described:
            watch("reading the archive back", each["table"])
            await asyncio.to_thread(verify_file, folder, each, fingerprints[each["table"]].rows)
        manifest = {
            "database": facts.database,
            "taken_at": snapshot.taken_at.isoformat(),
            "lsn": snapshot.lsn,
            "server_version": facts.server_version,
            "tables": [each | asdict(fingerprints[each["table"]]) for each in described],
        }
        named, checksum = finish(folder, manifest)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Archive(folder=named, manifest=manifest, manifest_sha256=checksum, fingerprints=fingerprints)


def verify_file(folder: Path, described: dict[str, Any], rows: int) -> None:
    """Read a table's file back: as it was written, and with so many rows. Raises BackupError."""
    path = folder / described["file"]
    digest, lines = hashlib.sha256(), 0
    try:
        with gzip.open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                lines += block.count(b"\n")
    except (OSError, EOFError) as error:
        raise _damaged(described, "cannot be read back") from error
    if digest.hexdigest() != described["content_sha256"] or file_sha256(path) != described["sha256"]:
        raise _damaged(described, "is not what was written")
    if lines != rows:
        raise _damaged(described, f"has {lines} rows, the table had {rows}")


def _damaged(described: dict[str, Any], how: str) -> BackupError:
    return BackupError(
        f"The archive of {described['table']} {how}.", "See to the disk, and run it again; nothing was dropped."
    )


async def _write(source: Connection, folder: Path, table: OldTable) -> dict[str, Any]:
    """Stream a table into its file; gives what the manifest says of it."""
    path = folder / f"{_file_name(table)}{ROWS}"
    digest = hashlib.sha256()
    with path.open("wb") as raw:
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=LEVEL, mtime=0) as file:
            async with aclosing(copy_out(source, table)) as rows:
                async for data in _blocks(rows):
                    digest.update(data)
                    file.write(data)
        raw.flush()
        os.fsync(raw.fileno())
    return {
        "table": str(table),
        "columns": table.columns,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": await asyncio.to_thread(file_sha256, path),
        "content_sha256": digest.hexdigest(),
        "restore": restore_commands(path.name, table),
    }


async def _blocks(rows: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces: rows come one by one."""
    block = bytearray()
    async for data in rows:
        block += data
        if len(block) >= BLOCK:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def restore_commands(file: str, table: OldTable) -> list[str]:
    """What makes the table again, for a shell in the archive's folder, where DATABASE is the database's name."""
    rows = shlex.quote(f"COPY {table.members[0]} ({', '.join(table.quoted_columns)}) FROM STDIN")
    ddl = shlex.quote(file.removesuffix(ROWS) + DDL)
    return [
        f"psql -v ON_ERROR_STOP=1 -d DATABASE -f {ddl}",
        f"gzip -dc {shlex.quote(file)} | psql -v ON_ERROR_STOP=1 -d DATABASE -c {rows}",
    ]


async def _write_ddl(source: Connection, folder: Path, table: OldTable, programs: Path, snapshot: str) -> None:
    """The table's definition, its partitions' too, and where its sequences stand."""
    path = folder / f"{_file_name(table)}{DDL}"
    command: list[str | Path] = [
        programs / "pg_dump",
        f"--snapshot={snapshot}",
        "--schema-only",
        "--no-password",
        f"--file={path}",
    ]
    await run_program([*command, *(f"--table={each}" for each in table.members)], program_environment(source), _ignore)
    states = [(each, *await sequence_state(source, each)) for each in table.sequences]
    lines = [
        f"SELECT pg_catalog.setval('{name.replace(chr(39), chr(39) * 2)}', {last}, {str(called).lower()});\n"
        for name, last, called in states
    ]
    with path.open("a", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def _file_name(table: OldTable) -> str:
    return f"{quote(table.schema, safe='')}.{quote(table.name, safe='')}"


def _ignore(_: str) -> None:
    """What the program says besides is of no interest."""
