"""The daemon, and the commands that ask it for something."""

import asyncio
import sys
from typing import Annotated

import typer

from replicator.cli import page, views, watch
from replicator.cli.base import Json, app, ask_daemon, flag, load, read_settings
from replicator.cli.client import RefusedError
from replicator.cli.help import Command
from replicator.cli.progress_bars import Bar, display
from replicator.cli.signals import stop_on_signal
from replicator.errors import ExitCode
from replicator.postgres.session.dsn import describe
from replicator.runtime import log
from replicator.terminal.failures import log_end
from replicator.terminal.output import emit, messages, output


@app.command(cls=Command)
def run() -> None:
    """Run the daemon, which does the migration.

    It copies the old tables, follows their changes and verifies; it cuts over when `replicator cutover` asks it to.
    Ctrl-C or SIGTERM stops it in good order, and the next start resumes where it was. Only one runs at a time.
    """
    settings, migration = load()
    from replicator.daemon import daemon  # noqa: PLC0415  # only what this command needs is loaded

    notes = messages()
    if notes.is_terminal:
        notes.print(views.header(migration, describe(settings.source), describe(settings.target), settings.http_listen))

    async def until_stopped() -> None:
        def told(name: str) -> None:
            log.get_logger("run").info("stopping", signal=name)

        with stop_on_signal(told) as stop:
            await daemon.run(settings, migration, stop=stop)

    try:
        asyncio.run(until_stopped())
    except Exception as error:
        if sys.stderr.isatty():
            raise
        raise typer.Exit(log_end(error)) from None


@app.command(cls=Command)
def status(
    follow: Annotated[bool, flag("--watch", "Show it anew each second, until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Show where the migration stands.

    Lag, progress, divergence, quarantine, the gates of the cutover, and the last errors, as the daemon reports them.
    """
    settings = read_settings()
    if follow:
        asyncio.run(watch.watch(settings, json=json))
        return
    report = asyncio.run(watch.read(settings))
    if json:
        emit(page.as_json(report))
    else:
        output().print(page.whole(report))


@app.command(cls=Command)
def verify(
    repair: Annotated[bool, flag("--repair", "Derive anew the rows that differ, and those in quarantine.")] = False,
    emptying: Annotated[
        bool,
        flag("--allow-emptying", "With --repair: delete all or most rows of a table, if no source row produces them."),
    ] = False,
    json: Json = False,
) -> None:
    """Compare every row with what it should be.

    The running daemon does it, online: what differs only because its change is still on the way is looked at again.
    """
    answer = ask_daemon(
        "verify", {"repair": repair} | ({"allow_emptying": True} if emptying else {}), display(Bar, quiet=json)
    )
    if "clean" not in (answer.result or {}):
        raise RefusedError(answer)
    if json:
        emit(answer.result)
    else:
        output().print(views.divergence(answer.result["tables"]))
        output().print(views.verification_sum(answer.result))
    raise typer.Exit(ExitCode.DONE if answer.result["clean"] else ExitCode.FAILED)
