"""Where the commands print: results to standard output, progress and errors to standard error."""

import io
import json
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO, cast

import typer
from rich.console import Console

PLAIN_WIDTH = 1000
"""Off a terminal no line is wrapped: what reads it may be grep."""
SPACES_AT_END = re.compile(r" +(?=\n)")

WORDS = {"ok": "green", "no": "red", "pass": "green", "warn": "yellow", "fail": "red"}


def output() -> Console:
    """The console of the results."""
    return _console(sys.stdout, stderr=False)


def messages() -> Console:
    """The console of progress, notes and errors."""
    return _console(sys.stderr, stderr=True)


def _console(stream: TextIO, *, stderr: bool) -> Console:
    if stream.isatty():
        return Console(stderr=stderr, highlight=False, soft_wrap=False)
    return Console(file=cast("TextIO", _Trimmed(stream)), highlight=False, soft_wrap=False, width=PLAIN_WIDTH)


class _Trimmed(io.TextIOBase):
    """A stream to which no line is written with spaces at its end: tables are filled up to the console's width."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str, /) -> int:
        self._stream.write(SPACES_AT_END.sub("", text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def emit(document: Mapping[str, Any] | list[Any], *, one_line: bool = False) -> None:
    """Print a JSON document to standard output."""
    typer.echo(json.dumps(document, default=str, ensure_ascii=False, indent=None if one_line else 2))


def word(text: str) -> str:
    """One of the words for good and bad, as markup in its colour."""
    return f"[bold {WORDS[text]}]{text}[/]"
