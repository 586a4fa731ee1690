"""What an error looks like to the user: what is wrong and what to do, and a traceback only with ``--debug``."""

import re

import typer
from rich.text import Text

from replicator.errors import ConnectionLostError, ReplicatorError, UsageError, unexpected
from replicator.runtime.log import get_logger, traceback_of
from replicator.terminal.output import emit, messages

SECRETS = (
    (re.compile(r"(\w://[^/\s:@]*):[^\s'\"]*@"), r"\1:***@"),
    (re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE), r"\1***"),
)


def tell(error: Exception, *, json: bool, debug: bool) -> int:
    """Print an error; gives the exit code."""
    if debug:
        typer.echo(scrubbed(traceback_of(error)), err=True, nl=False)
    known = as_known(error)
    if json:
        said = {"error": scrubbed(known.problem), "remedy": scrubbed(known.remedy), "kind": known.kind}
        emit({**said, **getattr(known, "details", {})})
    print_error(known)
    return int(known.exit_code)


def log_end(error: Exception) -> int:
    """Log an error that ends the daemon; returns the exit code.

    Off a terminal a line of the log: plain text at its end would not be found by what reads it as JSON.
    """
    known = as_known(error)
    details = {"remedy": scrubbed(known.remedy)} if known.remedy else {}
    log = get_logger("run")
    log.error("the daemon ends", error=scrubbed(known.problem), kind=known.kind, **details)
    log.debug("where it came from", exc_info=error)
    return int(known.exit_code)


def print_error(error: ReplicatorError) -> None:
    """Print what is wrong, and what to do about it, to standard error."""
    console = messages()
    console.print(Text.assemble(("error: ", "bold red"), scrubbed(error.problem)))
    if error.remedy:
        console.print(Text.assemble(("  what to do: ", "bold"), scrubbed(error.remedy)))


def as_known(error: Exception) -> ReplicatorError:
    """The error, or for one that is not ours what may be said of it: its message might hold anything."""
    if isinstance(error, ConnectionLostError) and error.where:
        return ConnectionLostError(f"No connection to {error.where}. {error.problem}", error.remedy)
    if isinstance(error, ReplicatorError):
        return error
    if hasattr(error, "format_message"):  # wrong use, as typer finds it
        return _wrong_use(error)
    return ReplicatorError(f"{unexpected(error)}; run again with --debug to see where it came from.")


def scrubbed(text: str) -> str:
    """The text without passwords of connection strings."""
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


def _wrong_use(error: Exception) -> UsageError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "replicator"
    said = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    return UsageError(said.replace(": Value error, ", ": "), f"See `{command} --help`.")  # a word of pydantic's
