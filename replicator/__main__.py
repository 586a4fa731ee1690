"""The program: runs a command, and turns whatever goes wrong into a sentence and an exit code."""

# ruff: noqa: E402  # see QUIET
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

QUIET = signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""Whether Ctrl-C would print a traceback while the modules are loaded, which takes half a second."""
if QUIET:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import typer

from replicator.cli.app import app
from replicator.cli.signals import INTERRUPTED
from replicator.errors import ExitCode
from replicator.terminal.failures import tell

if QUIET:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code, and lets no error out."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    given.sort(key=lambda each: each != "--debug")  # global, and welcome anywhere
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a test's stream may be another kind
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        return _guarded(given)
    except BrokenPipeError:  # whoever read our output has gone: nothing more can be said, not even at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED


def _guarded(given: list[str]) -> int:
    try:
        return _run(given)
    except (KeyboardInterrupt, typer.Abort):  # which of them, and whether, depends on typer's version
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  # this is where all end up
        return tell(error, json="--json" in given, debug="--debug" in given)


def _run(given: list[str]) -> int:
    command = typer.main.get_command(app)
    result = command.main(given or ["--help"], prog_name="replicator", standalone_mode=False)
    if not given:
        return ExitCode.WRONG_USE
    return result if isinstance(result, int) else ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
