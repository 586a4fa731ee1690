"""Reads Dockerfiles, as far as the tests of `deploy/` need it."""

import re
import shlex
from pathlib import Path

Instruction = tuple[str, str]


def instructions(dockerfile: Path) -> list[Instruction]:
    """Split a Dockerfile into (instruction, arguments)."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in text.splitlines() if line.strip()]


def last(dockerfile: Path, name: str) -> str:
    return [arguments for instruction, arguments in instructions(dockerfile) if instruction == name][-1]


def copied(dockerfile: Path) -> list[str]:
    """Paths that the build takes from its context."""
    copies = [shlex.split(arguments) for name, arguments in instructions(dockerfile) if name == "COPY"]
    plain = [[word for word in words if not word.startswith("--chmod")] for words in copies]
    return [path for words in plain if not words[0].startswith("--from") for path in words[:-1]]
