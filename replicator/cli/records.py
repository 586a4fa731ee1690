"""The command that shows what has happened."""

import asyncio
from typing import Annotated

import typer

from replicator.cli import views
from replicator.cli.base import Json, app, read_settings
from replicator.cli.help import Command
from replicator.postgres.control.journal import Entry, read_journal
from replicator.postgres.session.connect import connection
from replicator.terminal.output import emit, output


@app.command(cls=Command)
def journal(
    limit: Annotated[int | None, typer.Option(min=1, metavar="NUMBER", help="Only the latest so many entries.")] = None,
    json: Json = False,
) -> None:
    """Show what has happened, when, and who did it.

    Phases, commands with their outcome, the daemon's starts and stops, cutovers, backups: the table
    _replicator.journal in the target database. It holds names and counts, no row values.
    """
    entries = asyncio.run(_read(read_settings().target, limit))
    if json:
        emit({"entries": [vars(each) | {"at": each.at.isoformat()} for each in entries]})
    elif entries:
        output().print(views.journal(entries))
    else:
        output().print("Nothing has happened yet.")


async def _read(dsn: str, limit: int | None) -> list[Entry]:
    async with connection(dsn, "journal") as opened:
        return await read_journal(opened, limit)
