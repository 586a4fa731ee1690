"""The command that tries the application's new home."""

import typer

from replicator.cli import views
from replicator.cli.base import Json, app, load
from replicator.cli.help import Command
from replicator.cli.progress_bars import Meter
from replicator.cli.signals import run_stoppable
from replicator.errors import ExitCode
from replicator.terminal.output import emit, output


@app.command(cls=Command)
def smoke(json: Json = False) -> None:
    """Check that the cutover holds.

    After the cutover: the queries in sql/probes/new are answered, each new table accepts a write, each old one
    refuses it, the way back flows, and applications are told the right schema. Writes are rolled back.
    """
    settings, migration = load()
    from replicator.runbook.smoke import smoke as try_all  # noqa: PLC0415  # only what this command needs is loaded

    with Meter(quiet=json) as meter:
        found = run_stoppable(try_all(settings, migration, meter.show), meter.note)
    bad = any(each.outcome == "fail" for each in found)
    if json:
        keys = ("check", "outcome", "detail", "remedy")
        emit({"ok": not bad, "checks": [{key: getattr(each, key) for key in keys} for each in found]})
    else:
        output().print(views.findings(found))
        output().print(views.smoke_sum(found))
    raise typer.Exit(ExitCode.FAILED if bad else ExitCode.DONE)
