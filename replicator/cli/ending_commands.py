"""The two ends of a migration."""

import asyncio
from typing import Annotated, Any

from replicator.cli import views
from replicator.cli.base import Json, Yes, app, ask_daemon, ask_first, flag, load
from replicator.cli.client import RefusedError
from replicator.cli.help import Command
from replicator.cli.progress_bars import Steps, display
from replicator.errors import ExitCode
from replicator.postgres.control.control import daemon_alive
from replicator.postgres.control.journal import recorded
from replicator.postgres.session.connect import connection
from replicator.terminal.output import emit, messages, output


@app.command(cls=Command)
def finalize(
    now: Annotated[bool, flag("--now", "Do not wait for the end of the soak.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """End the soak: from here on there is no way back.

    The daemon stops; slots, publications and guards go. Refused before REPLICATOR_SOAK hours have passed since the
    cutover. The old tables stay as they are, until `replicator cleanup`; the journal is kept.
    """
    settings, migration = load()
    from replicator.runbook import freezing  # noqa: PLC0415  # only what this command needs is loaded

    using = freezing.told(asyncio.run(freezing.using_old_tables(settings, migration)))
    for each in () if json else using:
        messages().print(each, markup=False, style="yellow")
    ask_first("After this, the old tables no longer follow, and there is no rollback. Go on?", yes=yes)
    if asyncio.run(_daemon_runs(settings.target)):
        answer = ask_daemon("finalize", {"now": now}, display(Steps, quiet=json))
        if answer.exit_code != ExitCode.DONE:
            raise RefusedError(answer)
        removed = answer.result
    else:
        from replicator.runbook import finish  # noqa: PLC0415  # only what this command needs is loaded

        async def work() -> dict[str, Any]:
            async with recorded(settings.target, "finalize", {"now": now}):
                return (await finish.finalize(settings, migration, _teller(quiet=json), now=now)).as_answer()

        removed = asyncio.run(work())
    if json:
        emit(removed | {"using_old_tables": using})
    else:
        output().print(views.finalized(removed))


@app.command(cls=Command)
def abort(yes: Yes = False, json: Json = False) -> None:
    """Give the migration up, before the cutover.

    Everything of ours goes, from both databases: slots, publications, guards, the new tables with all that the DDL has
    made, and the journal. The old tables stay as they are. Stop the daemon first.
    """
    settings, migration = load()
    ask_first(f"This drops the new tables in the schema {migration.new}, and all progress. Go on?", yes=yes)
    from replicator.runbook import finish  # noqa: PLC0415  # only what this command needs is loaded

    removed = asyncio.run(finish.abort(settings, migration, _teller(quiet=json))).as_answer()
    if json:
        emit(removed)
    else:
        output().print(views.aborted(removed))


async def _daemon_runs(dsn: str) -> bool:
    async with connection(dsn, "finalize") as target:
        return await daemon_alive(target)


def _teller(*, quiet: bool) -> Any:
    async def tell(step: str) -> None:
        if not quiet:
            messages().print(step, markup=False, style="dim")

    return tell
