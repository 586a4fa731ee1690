"""The command that says where everything goes."""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from replicator.cli.base import Json, app, flag, load
from replicator.cli.consequence_views import consequences
from replicator.cli.explain_drawings import as_html, as_mermaid
from replicator.cli.help import Command
from replicator.errors import UsageError
from replicator.terminal.output import emit, output

if TYPE_CHECKING:
    from replicator.runbook.explaining import Explanation, OldColumn, OldTable, Step

FATES = {
    "transformed": "",
    "read": "read by queries alone",
    "retired": "retired",
    "left": "left alone",
}


@app.command(cls=Command)
def explain(
    mermaid: Annotated[bool, flag("--mermaid", "Print a Mermaid flowchart, for a page or a pull request.")] = False,
    html: Annotated[bool, flag("--html", "Print one HTML page, with a drawing; it loads nothing.")] = False,
    json: Json = False,
) -> None:
    """Say where every old table and column goes, and what the cutover will do.

    For each old table: its new tables, or that it is retired or left alone; for each of its columns, which transforms
    and queries read it, or that none does. For each transform: what it reads and writes, and how the key of its target
    is found. Then what the cutover does, with its locks in their order. What Python transforms read is seen in the
    first 200 rows of each source. Changes nothing.
    """
    if mermaid + html + json > 1:
        raise UsageError("--mermaid, --html and --json exclude each other.", "Give one of them.")
    settings, migration = load()
    from replicator.runbook.explaining import explain as find  # noqa: PLC0415  # only what this command needs is loaded

    found = asyncio.run(find(settings, migration))
    if json:
        emit(asdict(found))
    elif mermaid:
        typer.echo(as_mermaid(found))
    elif html:
        typer.echo(as_html(found))
    else:
        output().print(view(found))


def view(found: "Explanation") -> RenderableType:
    """All of it, for a terminal."""
    parts: list[RenderableType] = []
    for each in found.tables:
        parts += _table(found, each)
    for direction, title in (("forward", "Transforms"), ("reverse", "The way back")):
        steps = [each for each in found.steps if each.direction == direction]
        parts += [Text(title, style="bold"), _steps(steps), Text()] if steps else []
    for query in found.queries:
        read = "; ".join(f"{table} ({', '.join(columns)})" for table, columns in query.tables.items())
        parts.append(Text.assemble(("query ", "bold"), (query.name, "bold"), f", by {', '.join(query.key)}: {read}"))
        parts += [Text(f"  a change in {table}: {which}") for table, which in query.depends_on.items()]
    parts += [Text()] if found.queries else []
    parts += [consequences(found.consequences.as_json())] if found.consequences else []
    parts += [Text(note, style="yellow") for note in found.notes]
    return Group(*parts)


def _table(found: "Explanation", table: "OldTable") -> Iterable[RenderableType]:
    said = FATES[table.fate] + (f": {table.because}" if table.because else "")
    into = f" -> {', '.join(f'{found.new}.{each}' for each in table.into)}" if table.into else ""
    yield Text.assemble((f"{found.old}.{table.name}", "bold"), into, (f"  {said}" if said else "", "dim"))
    grid = Table.grid(padding=(0, 2))
    for column in table.columns:
        grid.add_row("", Text(column.name), Text(column.type, style="dim"), _column(column))
    if table.columns:
        yield grid
    yield Text()


def _column(column: "OldColumn") -> Text:
    if column.fate == "retired":
        return Text(f"retired: {column.because}", style="dim")
    to = "; ".join(f"to {into}.{name}" for into, name in column.to.items())
    if column.fate == "read":
        return Text(to or f"read by {', '.join(column.by)}")
    if column.fate == "unknown":
        return Text("not known: the table has no rows", style="dim")
    return Text("no transform reads it", style="yellow")


def _steps(steps: Iterable["Step"]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("transform", "from", "into", "key", "writes"):
        table.add_column(name)
    for each in steps:
        writes = ", ".join(each.writes) or "-"
        table.add_row(Text(each.name), Text(each.source), Text(each.into), each.key, Text(writes))
    return table
