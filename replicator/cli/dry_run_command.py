"""The command that tries all rows and keeps none."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from replicator.cli.base import Json, app, load
from replicator.cli.consequence_views import consequences
from replicator.cli.help import Command
from replicator.cli.progress_bars import Gauge
from replicator.cli.signals import run_stoppable
from replicator.core.retyped import PREPARED
from replicator.errors import ExitCode
from replicator.terminal.output import emit, output
from replicator.terminal.text import counted, lasting

if TYPE_CHECKING:
    from replicator.postgres.trying.scratch import Conflict
    from replicator.runbook.dry_run import DryRun
    from replicator.runbook.round_trip import Returned


@app.command("dry-run", cls=Command)
def dry_run(
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="NUMBER", help="Only the first so many rows of each source, by key.")
    ] = None,
    json: Json = False,
) -> None:
    """Try every row on copies of the new tables; keep nothing.

    Each old row goes through each transform into temporary tables: what raises, what the new tables' types and
    constraints refuse, which rows clash or lack a parent, and how fast it goes. Old tables are read as a dump reads
    them: one snapshot, a reader's lock. The copies need as much disk as the new tables; they cause no log. All runs
    in transactions that are rolled back; while they are open, VACUUM keeps rows that are deleted meanwhile.
    """
    settings, migration = load()
    from replicator.runbook.dry_run import dry_run as try_rows  # noqa: PLC0415  # only what this command needs is loaded

    with Gauge(quiet=json) as gauge:
        result = run_stoppable(try_rows(settings, migration, sample, gauge.show), gauge.note)
    if json:
        emit(_document(result))
    else:
        output().print(_shown(result))
    if not result.ok:
        raise typer.Exit(ExitCode.FAILED)
    # What would keep the gate of a rollback shut is no success, though nothing is in the way of the cutover.
    raise typer.Exit(ExitCode.DONE if result.comes_back else ExitCode.NOT_READY)


def _document(result: "DryRun") -> dict[str, Any]:
    document = asdict(result)
    for each in document["transforms"]:
        each["rows_per_second"] = each["rows"] / each["seconds"] if each["seconds"] else None
        each["examples"] = [{"key": list(key), "error": error} for key, error in each["examples"]]
    for conflict in document["conflicts"]:
        conflict["examples"] = [
            [{"transform": transform, "key": list(key)} for transform, key in rows] for rows in conflict["examples"]
        ]
    for table in document["way_back"]["tables"]:
        table["examples"] = [list(key) for key in table["examples"]]
    return {
        "ok": result.ok,
        "comes_back": result.comes_back,
        "backfill_seconds_estimate": result.backfill_seconds,
        **document,
    }


def _shown(result: "DryRun") -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("transform")
    for name in ("rows", "give none", "refused", "rows/s"):
        table.add_column(name, justify="right")
    parts: list[RenderableType] = [table]
    for each in result.transforms:
        refused = Text(f"{each.refused:,}{'+' if each.gave_up else ''}", style="bold red" if each.refused else "")
        speed = f"{each.rows / each.seconds:,.0f}" if each.seconds else "-"
        table.add_row(Text(each.transform), f"{each.rows:,}", f"{each.without_row:,}", refused, speed)
        parts += [Text(f"  {each.source} {', '.join(key)}: {error}", style="red") for key, error in each.examples]
    for conflict in result.conflicts:
        parts += _conflict(conflict)
    parts += [Text(problem, style="bold red") for problem in result.keyless.values()]
    for source, columns in result.unread.items():
        parts.append(Text(f"No transform reads, of {source}: {', '.join(columns)}", style="yellow"))
    if result.retyped:
        parts.append(Text(f"Columns that have another type: {'; '.join(result.retyped)}. {PREPARED}.", style="yellow"))
    parts += [line for each in result.way_back.tables if not each.same for line in _returned(each)]
    parts += [Text(note, style="yellow") for note in (*result.way_back.notes, *result.notes)]
    parts += [consequences(result.consequences.as_json())] if result.consequences else []
    return Group(*parts, _sum(result))


def _returned(each: "Returned") -> Iterable[RenderableType]:
    """One line for what is lost on the way there and back, and one for some keys."""
    found = [f"{column} differs in {counted(rows, 'row')}" for column, rows in sorted(each.differing.items())]
    if each.added:
        found.append(f"{counted(each.added, 'row comes', 'rows come')} back under a key that was not there")
    if each.lost:
        found.append(f"{counted(each.lost, 'row does', 'rows do')} not come back")
    if each.refused:
        found.append(f"{counted(each.refused, 'row is', 'rows are')} refused")
    yield Text(f"The way back to {each.table} ({counted(each.rows, 'row')}): {'; '.join(found)}.", style="bold yellow")
    if each.examples:
        yield Text(f"  such as {'; '.join(', '.join(key) for key in each.examples)}", style="yellow")


def _conflict(conflict: "Conflict") -> Sequence[RenderableType]:
    if conflict.kind == "unique":
        found = counted(conflict.count, "value that several rows have", "values that several rows have")
    else:
        found = counted(conflict.count, "row that refers to none", "rows that refer to none")
    lines = [Text(f"{conflict.table}, {conflict.name}: {found}", style="bold red")]
    for rows in conflict.examples:
        named = " and ".join(f"{transform} for {', '.join(key)}" for transform, key in rows)
        lines.append(Text(f"  {named}", style="red"))
    return lines


def _sum(result: "DryRun") -> Text:
    estimate = result.backfill_seconds
    took = f"{counted(result.rows, 'row')} in {lasting(result.seconds)}."
    if estimate is not None:
        took += f" At this speed the backfill takes about {lasting(estimate)}: an estimate; it writes a log besides."
    if result.ok and not result.comes_back:
        back = "Nothing would fail on the way there. After the cutover the gate `verified` would shut, and a rollback "
        back += "would be refused until `replicator verify --repair` has changed the old rows. "
        return Text.assemble((back, "bold yellow"), took)
    if result.ok:
        return Text.assemble(("Nothing would fail. ", "bold green"), took)
    return Text.assemble(("Some rows would end up in quarantine, or in the way. ", "bold red"), took)
