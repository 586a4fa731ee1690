"""The commands for the rows that a transform or a table refuses."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from replicator.cli import entries
from replicator.cli.base import Json, app, ask_daemon, flag, read_settings
from replicator.cli.client import RefusedError
from replicator.cli.help import Command, Several
from replicator.cli.progress_bars import Bar, display
from replicator.errors import ExitCode, ReplicatorError, UsageError
from replicator.postgres.control.control import installed
from replicator.postgres.control.mailbox import operator
from replicator.postgres.control.quarantine import Entry, State, count_entries, read_entries
from replicator.postgres.session.connect import connection
from replicator.settings import Settings
from replicator.terminal.output import emit, output

group = typer.Typer(cls=Several, no_args_is_help=False)
app.add_typer(group, name="quarantine", help="See, try again, or discard the rows that were refused.")

Entries = Annotated[
    list[str] | None, typer.Argument(metavar="ENTRY", help="Numbers, as `list` shows them; or the word all.")
]
Transform = Annotated[
    str | None, typer.Option(metavar="NAME", help="All that this transform has refused, instead of numbers.")
]


@group.command("list", cls=Command)
def list_entries(
    every: Annotated[bool, flag("--all", "Discarded ones too.")] = False,
    limit: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Show so many, the oldest first.")] = 50,
    json: Json = False,
) -> None:
    """Show which rows are in quarantine, and why.

    A row that a transform or the new table refuses is kept here with the error. It keeps the cutover from happening
    until a later version of it is good, or until it is discarded. No daemon is needed to look.
    """
    state: State = "any" if every else "standing"
    found, total = asyncio.run(_read(read_settings(), state, limit))
    if json:
        emit({"entries": [as_json(each) for each in found], "total": total})
    else:
        output().print(entries.listed(found, total))


@group.command(cls=Command)
def show(
    entry: Annotated[list[str], typer.Argument(metavar="ENTRY", help="A number; or a transform and the row's key.")],
    json: Json = False,
) -> None:
    """Show all about one row in quarantine.

    It is named by its number, or by the transform and the parts of its key. Keys are shown, but no other values.
    """
    numbers = _numbers(entry) if len(entry) == 1 else []
    found = asyncio.run(_find(read_settings(), numbers, entry))
    if not found:
        raise ReplicatorError(f"{' '.join(entry)} is not in quarantine.", "See `replicator quarantine list --all`.")
    if json:
        emit({"entries": [as_json(each) for each in found]})
    else:
        output().print(entries.whole(found))


@group.command(cls=Command)
def retry(
    entry: Entries = None,
    transform: Transform = None,
    json: Json = False,
) -> None:
    """Derive rows in quarantine anew.

    The running daemon reads them as they are now. A changed row is tried by itself; this is for rows that did not
    change: the transform was mended, or what they refer to is there now.
    """
    which = _which(entry, transform, "Which rows are to be tried again?")
    answer = ask_daemon("retry", which, display(Bar, quiet=json))
    result: Mapping[str, Any] = answer.result or {}
    if "tried" not in result:
        raise RefusedError(answer)
    if json:
        emit(result)
    else:
        output().print(entries.retried(result))
    raise typer.Exit(ExitCode.FAILED if result["tried"] > result["resolved"] else ExitCode.DONE)


@group.command(cls=Command)
def discard(
    because: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept in the journal.")],
    entry: Entries = None,
    transform: Transform = None,
    json: Json = False,
) -> None:
    """Decide that rows need not be in the new table as they are.

    They no longer keep the cutover from happening. The new table keeps the row's last good version, or has none; rows
    that refer to it are refused by their foreign key. When the row changes, it is tried again, and when it is still
    refused, it stands in the way again.
    """
    if not because.strip():
        raise UsageError("--because is empty.", "Say why: it is kept in the journal.")
    which = _which(entry, transform, "Which rows are to be discarded?")
    arguments = {**which, "because": because.strip(), "by": operator()}
    answer = ask_daemon("discard", arguments, display(Bar, quiet=json))
    result = answer.result or {}
    if "discarded" not in result:
        raise RefusedError(answer)
    if json:
        emit(result)
    else:
        output().print(entries.discarded(result))


def as_json(entry: Entry) -> dict[str, Any]:
    """All of an entry; ``discarded`` is null while it stands."""
    document: dict[str, Any] = asdict(entry)
    at, by, because = (document.pop(name) for name in ("discarded_at", "discarded_by", "because"))
    document["key"] = list(document.pop("source_key"))
    document["discarded"] = {"at": at, "by": by, "because": because} if at else None
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in document.items()}


def _which(entry: list[str] | None, transform: str | None, question: str) -> dict[str, Any]:
    """The rows that are meant, for a request: numbers, or a transform's, or all that stand. Raises UsageError."""
    if bool(entry) == bool(transform):
        raise UsageError(question, "Name entries, or --transform NAME, or all.")
    return {"entries": None if transform or entry == ["all"] else _numbers(entry or []), "transform": transform}


def _numbers(given: list[str]) -> list[int]:
    wrong = [each for each in given if not each.isdecimal()]
    if wrong:
        raise UsageError(f"{wrong[0]} is not the number of an entry.", "`replicator quarantine list` shows them.")
    return [int(each) for each in given]


async def _read(settings: Settings, state: State, limit: int) -> tuple[list[Entry], int]:
    """The oldest entries of both directions, and how many there are."""
    found: list[Entry] = []
    total = 0
    for dsn in dict.fromkeys((settings.target, settings.source)):
        async with connection(dsn, "quarantine") as opened:
            if await installed(opened):
                found += await read_entries(opened, state=state, limit=limit)
                total += sum((await count_entries(opened, state=state)).values())
    return found[:limit], total


async def _find(settings: Settings, numbers: list[int], named: list[str]) -> list[Entry]:
    """The entries that a number, or a transform and a key, may mean: two databases number for themselves."""
    found: list[Entry] = []
    for dsn in dict.fromkeys((settings.target, settings.source)):
        async with connection(dsn, "quarantine") as opened:
            if not await installed(opened):
                continue
            if numbers:
                found += await read_entries(opened, ids=numbers)
            else:
                found += await read_entries(opened, transform=named[0], key=tuple(named[1:]))
    return found
