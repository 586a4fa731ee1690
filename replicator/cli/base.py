"""What every command has: the program itself, its common options, the settings, and the way to ask the daemon."""

import asyncio
from typing import Annotated, Any

import typer

from replicator.cli.client import ask
from replicator.cli.help import Group
from replicator.cli.progress_bars import Display
from replicator.errors import UsageError
from replicator.migration import Migration
from replicator.observe.status import version
from replicator.postgres.control.mailbox import Command as Request
from replicator.postgres.session.dsn import describe
from replicator.runtime import log
from replicator.settings import Settings, load_migration, load_settings
from replicator.terminal.output import messages

app = typer.Typer(
    cls=Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def flag(name: str, meaning: str) -> Any:
    """An option that takes no value."""
    return typer.Option(name, metavar="", help=meaning)  # else the help says that it takes a <bool>


Yes = Annotated[bool, flag("--yes", "Do not ask.")]
Json = Annotated[bool, flag("--json", "Print the result as JSON, and nothing else.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"replicator {version()}")
        raise typer.Exit


@app.callback()
def program(
    debug: Annotated[bool, flag("--debug", "Log every step; show where an error comes from.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Restructure the schema of a live Postgres database without stopping it."""
    log.configure(debug=debug)


def read_settings() -> Settings:
    """The settings; a connection string that cannot be read is refused here. Raises UsageError."""
    settings = load_settings()
    for name, dsn in (("SOURCE", settings.source), ("TARGET", settings.target)):
        try:
            describe(dsn)  # a string that cannot be read stops here, before libpq quotes it
        except UsageError as error:
            raise UsageError(f"REPLICATOR_{name}_DSN: {error.problem}", error.remedy) from None
    return settings


def load() -> tuple[Settings, Migration]:
    """The settings, and the migration that they name. Raises UsageError, MigrationError."""
    settings = read_settings()
    return settings, load_migration(settings.migration)


def ask_daemon(command: str, arguments: dict[str, Any], shown: Display, *, within: float | None = None) -> Request:
    """Have the daemon do something, and show how far it is until it has answered. ``within``: for so many seconds."""
    settings = read_settings()
    with shown:
        return asyncio.run(ask(settings.target, command, arguments, shown.show, shown.note, within))


def ask_first(question: str, *, yes: bool) -> None:
    """Ask before what cannot be undone. Raises UsageError when there is nobody to ask, Abort when the answer is no."""
    if yes:
        return
    if not messages().is_terminal:
        raise UsageError("This cannot be undone, and there is nobody to ask.", "Add --yes if you are sure.")
    typer.confirm(question, abort=True, err=True)
