"""The files that are written, and how it is seen that the author has edited one."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from replicator.errors import MigrationError

MARK: Final = re.compile(r"^-- as generated: ([0-9a-f]{16})\n", re.MULTILINE)
OPENING: Final = (
    "-- Written by `replicator schema --generate`. Read it, and change what is to be otherwise: once it is\n"
)
"""The first line of each file."""
EDITED: Final = "-- changed, it is yours, and is not written anew.\n"


@dataclass(frozen=True)
class File:
    """One file: its path below the migration's SQL folder, and its text."""

    path: str
    text: str


def sealed(path: str, body: str) -> File:
    """A file with a line from which it can be told later whether somebody has changed the rest."""
    return File(path, f"{OPENING}{EDITED}-- as generated: {_sum(body)}\n\n{body}")


def was_generated(text: str) -> bool:
    """Whether it was generated once, and may have been edited since."""
    return text.startswith(OPENING)


def is_ours(text: str) -> bool:
    """Whether it is as it was generated, by whatever version and from whatever tables."""
    found = MARK.search(text)
    if found is None or not was_generated(text):
        return False
    return _sum(text[found.end() :].removeprefix("\n")) == found[1]


def write(folder: Path, files: Sequence[File]) -> tuple[list[str], list[str]]:
    """Write them, all or none; names those that were written, and those of files that are so already.

    Raises MigrationError where one has been edited, or is another's.
    """
    there = {each.path: _read(folder / each.path) for each in files}
    edited = [path for path, text in there.items() if text is not None and not is_ours(text)]
    if edited:
        them = "them" if edited[1:] else "it"
        raise MigrationError(
            f"Nothing has been written: {_listed(edited)} would be overwritten, and somebody has edited {them}, or "
            f"{them} was not generated.".replace("them was", "they were"),
            f"Move {them} away, generate anew, and carry over what you have changed; --generate --dry-run shows what "
            "would be written.",
        )
    written = [each for each in files if there[each.path] != each.text]
    for each in written:
        path = folder / each.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(each.text, encoding="utf-8")
    return [f"sql/{each.path}" for each in written], [f"sql/{each.path}" for each in files if each not in written]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise MigrationError(f"The file {path} cannot be read.", "Move it away.") from error


def _sum(body: str) -> str:
    return sha256(body.encode()).hexdigest()[:16]


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(f"sql/{each}" for each in paths)


def file_names(tables: Iterable[str]) -> dict[str, str]:
    """For each table, a word for the names of its files: no two alike, whatever the tables are called."""
    found: dict[str, str] = {}
    for table in tables:
        plain = re.sub(r"[^a-z0-9]+", "_", table.lower()).strip("_") or "table"
        word, number = plain, 2
        while word in found.values():
            word, number = f"{plain}_{number}", number + 1
        found[table] = word
    return found
