"""The commands. Each reads the settings, has the work done elsewhere, and prints what came of it."""

import asyncio
from enum import StrEnum
from typing import Annotated, Any

import typer

from replicator import log
from replicator.cli import page, views, watch
from replicator.cli.client import RefusedError, ask
from replicator.cli.help import Command, Group
from replicator.cli.output import emit, messages, output
from replicator.cli.progress import Bar, Display, Steps, display
from replicator.cli.signals import stop_on_signal
from replicator.errors import ExitCode, UsageError
from replicator.migration import Migration
from replicator.observe.status import version
from replicator.postgres.control import Command as Request
from replicator.postgres.dsn import describe
from replicator.settings import Settings, load_migration, load_settings

app = typer.Typer(
    cls=Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _flag(name: str, meaning: str) -> Any:
    return typer.Option(name, metavar="", help=meaning)  # else the help says that it takes a <bool>


Json = Annotated[bool, _flag("--json", "Print the result as JSON, and nothing else.")]


class Part(StrEnum):
    """A part of the new schema."""

    TABLES = "tables"
    INDEXES = "indexes"
    CONSTRAINTS = "constraints"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"replicator {version()}")
        raise typer.Exit


@app.callback()
def program(
    debug: Annotated[bool, _flag("--debug", "Log every step; show where an error comes from.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Restructure the schema of a live Postgres database without stopping it."""
    log.configure(debug=debug)


@app.command(cls=Command)
def check(json: Json = False) -> None:
    """Check that the migration can run.

    Looks at the servers, their settings, the privileges, and at every table and column. Changes nothing.
    """
    settings, migration = _load()
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
    dry_run: Annotated[bool, _flag("--dry-run", "Print the statements, and run none.")] = False,
    json: Json = False,
) -> None:
    """Create the new schema: tables, indexes, constraints.

    What is there already is left alone. The daemon does all of it by itself when it is due; this command is for those
    who want to see it, or to do it earlier.
    """
    settings, migration = _load()
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


@app.command(cls=Command)
def run() -> None:
    """Run the daemon, which does the migration.

    It copies the old tables, follows their changes and verifies; it cuts over when `replicator cutover` asks it to.
    Ctrl-C or SIGTERM stops it in good order, and the next start resumes where it was. Only one runs at a time.
    """
    settings, migration = _load()
    from replicator import daemon  # noqa: PLC0415  # only what this command needs is loaded

    notes = messages()
    if notes.is_terminal:
        notes.print(views.header(migration, describe(settings.source), describe(settings.target), settings.http_listen))

    async def until_stopped() -> None:
        def told(name: str) -> None:
            log.get_logger("run").info("stopping", signal=name)

        with stop_on_signal(told) as stop:
            await daemon.run(settings, migration, stop=stop)

    asyncio.run(until_stopped())


@app.command(cls=Command)
def status(
    follow: Annotated[bool, _flag("--watch", "Show it anew each second, until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Show where the migration stands.

    Lag, progress, divergence, quarantine, the gates of the cutover, and the last errors, as the daemon reports them.
    """
    settings = _settings()
    if follow:
        asyncio.run(watch.watch(settings.target, json=json))
        return
    report = asyncio.run(watch.read(settings.target))
    if json:
        emit(page.as_json(report))
    else:
        output().print(page.whole(report))


@app.command(cls=Command)
def verify(
    repair: Annotated[bool, _flag("--repair", "Derive anew the rows that differ, and those in quarantine.")] = False,
    json: Json = False,
) -> None:
    """Compare every row with what it should be.

    The running daemon does it, online: what differs only because its change is still on the way is looked at again.
    """
    answer = _ask("verify", {"repair": repair}, display(Bar, quiet=json))
    if "clean" not in (answer.result or {}):
        raise RefusedError(answer)
    if json:
        emit(answer.result)
    else:
        output().print(views.divergence(answer.result["tables"]))
        output().print(views.verification_sum(answer.result))
    raise typer.Exit(ExitCode.DONE if answer.result["clean"] else ExitCode.FAILED)


@app.command(cls=Command)
def cutover(
    wait: Annotated[bool, _flag("--wait", "Wait until all gates are open.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Wait no longer than this; goes with --wait.")
    ] = None,
    json: Json = False,
) -> None:
    """Switch the application over to the new schema.

    The running daemon does it, when all gates are open, in a pause too short to notice; if the pause would get too
    long, it gives up, and the writers go on as before. Ctrl-C cancels the request, unless it is already done.
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout says how long to --wait.", "Give both, or neither.")
    answer = _ask("cutover", {"wait": wait, "timeout": timeout}, display(Steps, quiet=json))
    if answer.exit_code != ExitCode.DONE:
        refused = RefusedError(answer)
        if not json and (gates := refused.details.get("gates")):
            output().print(views.gates(gates))
        raise refused
    if json:
        emit(answer.result)
    else:
        output().print(views.cutover_done(answer.result))


@app.command(cls=Command)
def demo(
    rows: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Song requests to begin with.")] = 50_000,
    rate: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Transactions a second.")] = 300,
    json: Json = False,
) -> None:
    """Show a whole migration under load.

    In a private Postgres that is gone afterwards: backfill, cutover and verification while writers go on writing. It
    needs no settings and no server.
    """
    from replicator.demo.run import run_demo  # noqa: PLC0415  # an optional extra

    raise typer.Exit(run_demo(rows=rows, rate=rate, json=json))


def _settings() -> Settings:
    settings = load_settings()
    for name, dsn in (("SOURCE", settings.source), ("TARGET", settings.target)):
        try:
            describe(dsn)  # a string that cannot be read stops here, before libpq quotes it
        except UsageError as error:
            raise UsageError(f"REPLICATOR_{name}_DSN: {error.problem}", error.remedy) from None
    return settings


def _load() -> tuple[Settings, Migration]:
    settings = _settings()
    return settings, load_migration(settings.migration)


def _ask(command: str, arguments: dict[str, Any], shown: Display) -> Request:
    settings = _settings()
    with shown:
        return asyncio.run(ask(settings.target, command, arguments, shown.show, shown.note))
