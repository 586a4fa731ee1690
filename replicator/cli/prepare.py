"""The commands that come before the daemon."""

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from replicator.cli import views
from replicator.cli.base import Json, app, flag, load
from replicator.cli.help import Command
from replicator.cli.output import emit, messages, output
from replicator.errors import ExitCode


class Part(StrEnum):
    """A part of the new schema."""

    TABLES = "tables"
    INDEXES = "indexes"
    CONSTRAINTS = "constraints"


@app.command(cls=Command)
def check(json: Json = False) -> None:
    """Check that the migration can run.

    Looks at the servers, their settings, the privileges, and at every table and column. Changes nothing.
    """
    settings, migration = load()
    from replicator.preflight import preflight  # noqa: PLC0415  # only what this command needs is loaded

    found = asyncio.run(preflight(settings, migration))
    failed = any(each.outcome == "fail" for each in found)
    if json:
        keys = ("check", "outcome", "detail", "remedy")
        emit({"ok": not failed, "checks": [{key: getattr(each, key) for key in keys} for each in found]})
    else:
        output().print(views.findings(found))
        output().print(views.findings_sum(found))
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.DONE)


@app.command(cls=Command)
def schema(
    parts: Annotated[
        list[Part] | None,
        typer.Argument(
            metavar="PART", show_choices=False, help="tables, indexes or constraints; without it, all that is due."
        ),
    ] = None,
    dry_run: Annotated[bool, flag("--dry-run", "Print the statements, and run none.")] = False,
    json: Json = False,
) -> None:
    """Create the new schema: tables, indexes, constraints.

    What is there already is left alone. The daemon does all of it by itself when it is due; this command is for those
    who want to see it, or to do it earlier.
    """
    settings, migration = load()
    from replicator import daemon  # noqa: PLC0415  # only what this command needs is loaded

    wanted = [part.value for part in parts or ()]
    if dry_run:
        statements = asyncio.run(daemon.schema_statements(settings, migration, wanted))
        if json:
            emit({"statements": statements})
        for statement in () if json else statements:
            typer.echo(f"{statement.rstrip().rstrip(';')};\n")
        return
    notes = messages()

    def tell(step: str) -> None:
        if not json:
            notes.print(step, markup=False, style="dim", no_wrap=True, overflow="ellipsis")

    done = asyncio.run(daemon.build_schema(settings, migration, wanted, tell))
    if json:
        emit({"done": done})
    else:
        output().print(views.built(done))
