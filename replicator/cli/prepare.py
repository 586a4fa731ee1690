"""The commands that come before the daemon."""

import asyncio
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from replicator.cli import views
from replicator.cli.base import Json, app, flag, load
from replicator.cli.help import Command
from replicator.cli.progress_bars import Meter
from replicator.cli.signals import run_stoppable
from replicator.errors import ExitCode, UsageError
from replicator.migration import Migration
from replicator.settings import Settings
from replicator.terminal.output import emit, messages, output


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
    from replicator.preflight import whole_preflight  # noqa: PLC0415  # only what this command needs is loaded

    report = asyncio.run(whole_preflight(settings, migration))
    found = report.findings
    failed = any(each.outcome == "fail" for each in found)
    if json:
        keys = ("check", "outcome", "detail", "remedy")
        consequences = report.consequences.as_json() if report.consequences else None
        checks = [{key: getattr(each, key) for key in keys} for each in found]
        emit({"ok": not failed, "checks": checks, "consequences": consequences})
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
    generated: Annotated[
        bool, flag("--generate", "Write files for the tables that migration.copy declares, and run nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Create the new schema: tables, indexes, constraints.

    What is there already is left alone. The daemon does all of it by itself when it is due; this command is for those
    who want to see it, or to do it earlier.

    With `--generate`, it writes the DDL of each new table that is a copy, like the old table: files in `sql/new`, and
    in `sql/cutover` for foreign keys to tables that stay. Read them, and edit what is to be otherwise. A file that you
    have edited is never overwritten. What is not like it was is said, and why; the files say it too.
    """
    settings, migration = load()
    from replicator.daemon import daemon  # noqa: PLC0415  # only what this command needs is loaded

    wanted = [part.value for part in parts or ()]
    if generated:
        if wanted:
            raise UsageError("--generate writes all parts.", f"Leave out {' '.join(wanted)}.")
        _generate(settings, migration, dry_run=dry_run, json=json)
        return
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


def _generate(settings: Settings, migration: Migration, *, dry_run: bool, json: bool) -> None:
    from replicator.runbook import generation  # noqa: PLC0415  # only what this command needs is loaded

    found = asyncio.run(generation.generate(settings, migration))
    if dry_run and not json:
        for each in found.files:
            typer.echo(f"-- sql/{each.path}\n{each.text}")
        return
    written, unchanged = ([], []) if dry_run else generation.write(migration.folder(), found.files)
    if json:
        remarks = [{"table": table} | asdict(one) for table, each in found.remarks.items() for one in each]
        texts = {"files": {f"sql/{each.path}": each.text for each in found.files}} if dry_run else {}
        emit({"written": written, "unchanged": unchanged, "remarks": remarks, "yours": found.yours} | texts)
    else:
        output().print(views.generated(written, unchanged, found.yours, found.remarks), soft_wrap=True)


@app.command(cls=Command)
def baseline(
    runs: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="How often each query is run.")] = 20,
    compare: Annotated[bool, flag("--compare", "Run the new twins too; fail when one is slower.")] = False,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write it; default: baseline.json, or comparison.json."),
    ] = None,
    json: Json = False,
) -> None:
    """Measure the queries in sql/probes.

    Those in old/ are run on the old tables; with `--compare` those of the same name in new/ take turns with them. A
    twin is slower when its median is more than 10 % and 0.1 ms above, in more runs than chance would give. Nothing can
    be written by a probe.
    """
    settings, migration = load()
    from replicator.runbook import baseline as work  # noqa: PLC0415  # only what this command needs is loaded

    file = to or Path("comparison.json" if compare else "baseline.json")
    with Meter(quiet=json) as meter:
        measuring = work.measure(settings, migration, runs, meter.show, meter.note, compare=compare)
        probes = run_stoppable(measuring, meter.note)
    work.write(file, probes, runs)
    asyncio.run(work.enter_figures(settings, probes, runs))
    slower = [each.name for each in probes if each.slower]
    if json:
        emit({"ok": not slower, "slower": slower, "file": str(file), "probes": work.describe(probes, plans=False)})
    else:
        output().print(views.probes(probes))
        output().print(views.probes_sum(probes, file))
    raise typer.Exit(ExitCode.FAILED if slower else ExitCode.DONE)
