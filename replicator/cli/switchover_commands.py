"""The cutover and the rollback."""

from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from math import isfinite
from typing import Annotated, Any

import typer

from replicator.cli import views
from replicator.cli.base import Json, app, ask_daemon, flag
from replicator.cli.client import RefusedError
from replicator.cli.consequence_views import consequences
from replicator.cli.help import Command
from replicator.cli.progress_bars import Steps, display
from replicator.errors import ExitCode, UsageError
from replicator.terminal.output import emit, output

Wait = Annotated[bool, flag("--wait", "Wait until all gates are open.")]
Timeout = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="Give up if the commit has not come by then; goes with --wait."),
]
DryRun = Annotated[
    bool, flag("--dry-run", "Go through every step, the lock too, then undo it; says all that it does, and the pause.")
]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="Not before: 02:30, or 2030-01-31T02:30; local unless it has a zone."),
]


LATE_SECONDS = 15.0
"""How much later than its time the daemon may answer: it takes back what it had prepared."""


class Strategy(StrEnum):
    """How the application finds the new tables."""

    SCHEMA = "schema"
    RENAME = "rename"


@app.command(cls=Command)
def cutover(
    wait: Wait = False,
    timeout: Timeout = None,
    dry_run: DryRun = False,
    at: At = None,
    set_search_path: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="Put the new schema in the old one's place in this role's search_path."),
    ] = None,
    rolling: Annotated[
        bool, flag("--rolling", "Let both schemas take writes, for versions of the application side by side.")
    ] = False,
    strategy: Annotated[
        Strategy,
        typer.Option(
            metavar="NAME", help="rename: the new tables take the old ones' place and schema, which become NAME_old."
        ),
    ] = Strategy.SCHEMA,
    no_way_back: Annotated[
        bool, flag("--no-way-back", "There will be no rollback: for a migration that has no reverse transforms.")
    ] = False,
    complete: Annotated[bool, flag("--complete", "End that: from now on only the new schema takes writes.")] = False,
    json: Json = False,
) -> None:
    """Switch the application over to the new schema.

    The running daemon does it, when all gates are open, in a pause too short to notice; if the pause would get too
    long, it gives up, and the writers go on as before. Ctrl-C cancels the request, unless it is already done.
    """
    if rolling and (complete or set_search_path is not None):
        raise UsageError(
            "--rolling begins what --complete ends, and a search_path can lead to one schema only.",
            "Give --rolling alone, and the others later.",
        )
    if strategy is Strategy.RENAME and (rolling or complete or set_search_path is not None):
        raise UsageError(
            "--strategy rename leaves one schema only: it goes neither with --rolling and --complete nor with "
            "--set-search-path.",
            "Give it alone.",
        )
    more: dict[str, Any] = {} if set_search_path is None else {"search_path_of": set_search_path}
    chosen = {"rolling": rolling, "complete": complete, "no_way_back": no_way_back}
    more |= {name: True for name, wanted in chosen.items() if wanted}
    if strategy is not Strategy.SCHEMA:
        more["strategy"] = strategy.value
    _move("cutover", more, wait=wait, timeout=timeout, dry_run=dry_run, at=at, json=json)


@app.command(cls=Command)
def rollback(
    wait: Wait = False, timeout: Timeout = None, dry_run: DryRun = False, at: At = None, json: Json = False
) -> None:
    """Switch the application back to the old schema.

    The cutover backwards, in the same short pause: what was written to the new schema is in the old one. After it the
    new tables follow the old ones again: a second cutover is possible as soon as a full pass is clean.
    """
    _move("rollback", {}, wait=wait, timeout=timeout, dry_run=dry_run, at=at, json=json)


def _move(
    name: str,
    more: dict[str, Any],
    *,
    wait: bool,
    timeout: float | None,
    dry_run: bool,
    at: str | None,
    json: bool,
) -> None:
    if timeout is not None and not wait:
        raise UsageError("--timeout says how long to --wait.", "Give both, or neither.")
    if timeout is not None and not isfinite(timeout):
        raise UsageError(f"--timeout {timeout} is no number of seconds.", "To wait for ever, leave it out.")
    arguments: dict[str, Any] = {"wait": wait, "timeout": timeout, "dry_run": dry_run, **more}
    if at is not None:
        arguments["at"] = moment(at).isoformat()
    within = None if timeout is None else timeout + LATE_SECONDS + _until(arguments.get("at"))
    answer = ask_daemon(name, arguments, display(Steps, quiet=json), within=within)
    if answer.exit_code != ExitCode.DONE:
        refused = RefusedError(answer)
        if not json and (gates := refused.details.get("gates")):
            output().print(views.gates(gates))
        raise refused
    if json:
        emit(answer.result)
        return
    if found := answer.result.get("consequences"):
        output().print(consequences(found))
    output().print(views.moved(name, answer.result))


def _until(at: str | None) -> float:
    """Seconds until then, as ``moment`` gives it."""
    return 0.0 if at is None else max(0.0, (datetime.fromisoformat(at) - datetime.now(UTC)).total_seconds())


def moment(text: str, now: datetime | None = None) -> datetime:
    """The time of ``--at``: a time of day is the next such one. Raises UsageError for what cannot be read, or is past.

    :param now: with a zone, for tests.
    """
    now = now or datetime.now().astimezone()
    try:
        at = datetime.combine(now.date(), time.fromisoformat(text)) if len(text) < len("2030-01-31") else None
        found = at or datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at {text} is no time.", "Write it as 02:30, or as 2030-01-31T02:30.") from None
    found = found if found.tzinfo else found.replace(tzinfo=now.tzinfo)
    if at is not None and found <= now:
        found += timedelta(days=1)
    if found <= now:
        raise UsageError(f"--at {text} is past.", "Name a time that is to come.")
    return found.astimezone(UTC)
