"""The commands that keep what could be lost."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from replicator.cli import cleanup_views, views
from replicator.cli.base import Json, Yes, app, ask_first, flag, load
from replicator.cli.help import Command
from replicator.cli.progress_bars import Meter
from replicator.cli.signals import run_stoppable
from replicator.errors import ExitCode, UsageError
from replicator.postgres.session.dsn import describe, has_password
from replicator.terminal.output import emit, output

To = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the new folder is made.", show_default=False)]


@app.command(cls=Command)
def backup(
    to: To = Path(),
    restore_dsn: Annotated[
        str | None,
        typer.Option(metavar="DSN", help="The server for the restore test, without a password; default: the same."),
    ] = None,
    no_restore_test: Annotated[bool, flag("--no-restore-test", "Do not prove it by restoring it.")] = False,
    json: Json = False,
) -> None:
    """Dump the old schema's whole database, and prove the dump.

    pg_dump and the row counts of the manifest share one snapshot; nobody is held up. The proof is a restore into a
    scratch database, which is dropped afterwards. Ctrl-C leaves nothing behind.
    """
    settings, migration = load()
    _refuse_what_is_odd(restore_dsn, no_restore_test)
    from replicator.runbook.backup import back_up  # noqa: PLC0415  # only what this command needs is loaded

    with Meter(quiet=json) as meter:
        work = back_up(settings, migration, to, meter.show, test=not no_restore_test, restore_dsn=restore_dsn)
        made = run_stoppable(work, meter.note)
    if json:
        keys = ("database", "taken_at", "lsn", "seconds", "rows", "restore_test")
        emit(
            {"folder": str(made.folder), "bytes": made.bytes, "manifest_sha256": made.manifest_sha256}
            | {key: made.manifest[key] for key in keys}
            | {"entered": made.entered}
        )
    else:
        output().print(views.backup_done(made))


@app.command(cls=Command)
def cleanup(
    dry_run: Annotated[bool, flag("--dry-run", "Show what would go and what is in the way; do nothing.")] = False,
    to: To = Path(),
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Archive the old tables, and drop them.

    Refused before `replicator finalize`, without a backup younger than the cutover, and while anything else depends on
    an old table. Each archive is read back; the tables are compared with it once more under a lock, and go in the same
    transaction. Other objects of the old schema stay.
    """
    settings, migration = load()
    from replicator.runbook import cleanup as work  # noqa: PLC0415  # only what this command needs is loaded

    planned = asyncio.run(work.plan(settings, migration))
    if not json:
        output().print(cleanup_views.cleanup_plan(planned))
    if dry_run:
        if json:
            emit(cleanup_views.cleanup_facts(planned) | {"dropped": False})
        raise typer.Exit(ExitCode.NOT_READY if planned.obstacles else ExitCode.DONE)
    planned.refuse()
    if not planned.tables:
        if json:
            emit(cleanup_views.cleanup_facts(planned) | {"dropped": False})
        return
    ask_first(f"These {len(planned.tables)} tables are archived to {to.absolute()}, and dropped. Go on?", yes=yes)
    with Meter(quiet=json) as meter:
        cleaning = work.clean_up(settings, migration, to, meter.show, meter.note)
        done, archive = run_stoppable(cleaning, meter.note)
    if json:
        made = {"archive": str(archive.folder), "manifest_sha256": archive.manifest_sha256}
        emit(cleanup_views.cleanup_facts(done) | {"dropped": True} | made)
    else:
        output().print(cleanup_views.cleaned(done, archive))


def _refuse_what_is_odd(restore_dsn: str | None, no_restore_test: bool) -> None:
    if restore_dsn is None:
        return
    if no_restore_test:
        raise UsageError("--restore-dsn is where to test, --no-restore-test says not to.", "Give one of them.")
    describe(restore_dsn)
    if has_password(restore_dsn):
        raise UsageError(
            "A password on the command line shows in the list of processes.", "Put it into ~/.pgpass or PGPASSWORD."
        )
