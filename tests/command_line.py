"""The commands that there are, by their whole names: ``check``, ``quarantine list``."""

from typing import Any

import typer

from replicator.cli.app import app


def commands() -> dict[str, Any]:
    """Every command that can be called."""
    return _below(typer.main.get_command(app), "")


def _below(group: Any, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        found |= _below(command, f"{prefix}{name} ") if hasattr(command, "commands") else {f"{prefix}{name}": command}
    return found


def split(words: list[str]) -> tuple[str, list[str]]:
    """The name of the command, and what follows it. Raises KeyError when there is no such command."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in commands():
            return name, words[length:]
    raise KeyError(" ".join(words))
