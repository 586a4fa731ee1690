"""The command that takes one row through the migration, and shows it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from replicator.cli.base import Json, app, load
from replicator.cli.help import Command
from replicator.cli.signals import run_stoppable
from replicator.errors import ExitCode
from replicator.terminal.output import emit, messages, output

if TYPE_CHECKING:
    from replicator.runbook.row_report import Beside, Cell, Made, OneRow

NULL = Text("NULL", style="dim")
STATES = {
    "same": ("as it should be", "green"),
    "different": ("differs", "yellow"),
    "missing": ("not there", "yellow"),
    "refused": ("refused", "bold red"),
}
"""What is said of a row, and its style."""


@app.command("try", cls=Command)
def try_one_row(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="An old table, or a query, as transforms name it.")],
    key: Annotated[list[str], typer.Argument(metavar="KEY", help="The row's key: a value for each of its columns.")],
    json: Json = False,
) -> None:
    """Take one row through the migration and back, and show it.

    Shows the old row; the new rows that each transform makes of it, and of the queries that read it, beside those that
    the new tables hold now; and what the way back makes of them, beside the old row. Where a transform raises, its file
    and line are shown. Changes nothing: it runs on temporary copies, in transactions that are rolled back. Values of
    the row are printed, here only: they are not in any log.
    """
    settings, migration = load()
    from replicator.runbook.one_row import try_row  # noqa: PLC0415  # only what this command needs is loaded

    found = run_stoppable(try_row(settings, migration, table, tuple(key)), lambda note: messages().print(note))
    if json:
        emit({"ok": found.ok, "comes_back": found.comes_back, **asdict(found)})
    else:
        output().print(view(found))
    if not found.ok:
        raise typer.Exit(ExitCode.FAILED)
    raise typer.Exit(ExitCode.DONE if found.comes_back else ExitCode.NOT_READY)


def view(found: "OneRow") -> RenderableType:
    """All of it, for a terminal."""
    parts: list[RenderableType] = [Text(f"{found.source} {_key(found.key)}", style="bold")]
    if found.old:
        parts.append(_columns(("column", "old row"), [(name, value) for name, value in found.old.items()]))
    for each in found.made:
        parts += _made(each, found.source, ("new row", "held now"))
    if found.back:
        parts += [Text(), Text("The way back", style="bold")]
    for each in found.back:
        parts += _made(each, "", ("comes back", "old row"))
    parts += [Text(), *(Text(note, style="yellow") for note in found.notes), _sum(found)]
    return Group(*parts)


def _made(made: "Made", own: str, heads: tuple[str, str]) -> Iterable[RenderableType]:
    yield Text()
    read = "" if made.source == own else f", from {made.source} {_key(made.key)}"
    yield Text(f"{made.transform}{read}", style="bold")
    if made.error:
        yield Text(f"  {made.error}", style="bold red")
    elif not made.rows:
        yield Text("  makes no row", style="dim")
    for row in made.rows:
        yield from _beside(row, heads)


def _beside(row: "Beside", heads: tuple[str, str]) -> Iterable[RenderableType]:
    words, style = STATES[row.state]
    yield Text.assemble(f"  {row.table} {_key(row.key)}: ", (words, style), f" {row.error}" if row.error else "")
    if row.cells and row.state == "missing":
        yield _columns(("column", heads[0]), [(each.column, each.wanted) for each in row.cells])
    elif row.cells:
        yield _cells(row.cells, heads)


def _cells(cells: Sequence["Cell"], heads: tuple[str, str]) -> Table:
    table = _table(("column", *heads))
    for each in cells:
        style = "bold yellow" if each.differs else ""
        mark = Text("  <> " if each.differs else "     ", style=style)
        table.add_row(
            Text.assemble(mark, Text(each.column, style=style)), _value(each.wanted, style), _value(each.found, style)
        )
    return table


def _columns(heads: tuple[str, str], values: Iterable[tuple[str, str | None]]) -> Table:
    table = _table(heads)
    for name, value in values:
        table.add_row(Text(f"     {name}"), _value(value))
    return table


def _table(heads: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"     {heads[0]}", no_wrap=True)
    for each in heads[1:]:
        table.add_column(each, overflow="fold")
    return table


def _value(value: str | None, style: str = "") -> Text:
    return NULL if value is None else Text(value, style=style)


def _key(key: Sequence[str]) -> str:
    return f"({', '.join(key)})"


def _sum(found: "OneRow") -> Text:
    if not found.ok:
        return Text("This row would end up in quarantine.", style="bold red")
    if found.lost:
        return Text("The row is carried over, and does not come back.", style="bold yellow")
    if not found.comes_back:
        return Text("The row is carried over, and comes back otherwise than it was.", style="bold yellow")
    return Text("The row is carried over.", style="bold green")
