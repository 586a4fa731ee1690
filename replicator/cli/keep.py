"""The commands that keep what could be lost."""

from pathlib import Path
from typing import Annotated

import typer

from replicator.cli import views
from replicator.cli.base import Json, app, flag, load
from replicator.cli.help import Command
from replicator.cli.output import emit, output
from replicator.cli.progress import Meter
from replicator.cli.signals import run_stoppable
from replicator.errors import UsageError
from replicator.postgres.dsn import describe, has_password

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
    from replicator.backup import back_up  # noqa: PLC0415  # only what this command needs is loaded

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
