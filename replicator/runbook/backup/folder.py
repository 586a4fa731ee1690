"""The folder of a backup: under a name that says it is half made, until all is there and proved."""

import hashlib
import json
import os
import re
import shutil
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from replicator.runbook.backup.programs import BackupError

PARTIAL = ".partial"
MANIFEST = "manifest.json"
BLOCK = 1 << 20


def make_folder(parent: Path, database: str, needed: int, *, kind: str = "backup") -> Path:
    """Make ``<kind>-<database>-<UTC time>.partial``, for its owner's eyes only; gives its absolute path.

    Of several made in one second, each later one has a number too.

    :param needed: bytes that must be free. Raises BackupError when they are not, or when nothing can be written there.
    """
    name = f"{kind}-{re.sub(r'[^A-Za-z0-9_.-]', '_', database)}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    taken = {each.name.removesuffix(PARTIAL) for each in parent.absolute().glob(f"{name}*")}
    number = next(each for each in count(1) if (name if each == 1 else f"{name}-{each}") not in taken)
    folder = parent.absolute() / f"{name if number == 1 else f'{name}-{number}'}{PARTIAL}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        if free < needed:
            raise BackupError(
                f"{parent} has {free:,} bytes free; the tables take {needed:,}.",
                "Free space there, or name another folder with --to.",
            )
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise BackupError(f"{folder} cannot be made: {error.strerror}.", "Name another folder with --to.") from error
    return folder


def files_of(folder: Path) -> list[dict[str, Any]]:
    """Path, bytes and SHA-256 of each file, save for the manifest."""
    paths = sorted(each for each in folder.rglob("*") if each.is_file() and each != folder / MANIFEST)
    return [
        {"path": str(path.relative_to(folder)), "bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in paths
    ]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as read:
        while block := read.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def size_of(folder: Path) -> int:
    """Bytes in a folder that something may still write into."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def finish(folder: Path, manifest: dict[str, Any]) -> tuple[Path, str]:
    """Write the manifest and give the folder its name, both on the disk for good; gives the name and the SHA-256."""
    path = folder / MANIFEST
    with path.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    named = folder.rename(folder.with_name(folder.name.removesuffix(PARTIAL)))
    for each in (named, named.parent):
        opened = os.open(each, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    return named, file_sha256(named / MANIFEST)
