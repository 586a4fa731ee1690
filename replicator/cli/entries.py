"""How rows in quarantine are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from replicator.postgres.control.quarantine import Entry
from replicator.terminal.text import clock, counted

HINT = "`replicator quarantine retry` tries them again, `discard` gives them up."
REMEDY = (
    "Correct the row in the {read} schema: its next version is tried without further ado. Or correct the transform, "
    "restart the daemon, then run `replicator quarantine retry {id}`. Or run `replicator quarantine discard {id} "
    "--because TEXT` if the row need not be in the {written} table as it is."
)
SIDES = {"forward": ("old", "new"), "reverse": ("new", "old")}
"""Which schema each pipeline reads, and which one it writes."""


def listed(entries: Sequence[Entry], total: int) -> RenderableType:
    """Two lines an entry, what and why; and a sum."""
    if not entries:
        return Text("No row is in quarantine.", style="green")
    cells = [
        (
            str(each.id), each.pipeline, each.transform, f"{each.source} {key(each)}",
            f"since {clock(each.since.isoformat())}", counted(each.attempts, "try", "tries"),
        )
        for each in entries
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    shown: list[RenderableType] = []
    for each, parts in zip(entries, cells, strict=True):
        line = "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True))
        shown += [Text(line.rstrip()), Padding(_error(each), (0, 0, 0, widths[0] + 2), expand=False)]
    rest = total - len(entries)
    more = f" {rest:,} more {'is' if rest == 1 else 'are'} not shown: see --limit." if rest else ""
    return Group(*shown, Text(f"{counted(total, 'row')}.{more} {HINT}", style="bold"))


def whole(entries: Sequence[Entry]) -> RenderableType:
    """All of each entry, and what to do about it."""
    shown: list[RenderableType] = []
    for each in entries:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        read, written = SIDES[each.pipeline]
        table.add_row("Entry", f"{each.id}, of the {each.pipeline} pipeline: from the {read} schema to the {written}")
        table.add_row("Row", Text(f"{each.source} {key(each)}, in the {read} schema"))
        table.add_row("Transform", Text(each.transform))
        table.add_row("Error", Text(each.error, style="red"))
        tries = counted(each.attempts, "try", "tries")
        table.add_row("Refused", f"since {clock(each.since.isoformat())}; {tries}, the last at "
                                 f"{clock(each.tried_at.isoformat())}")  # fmt: skip
        if each.discarded_at is not None:
            table.add_row(
                "Discarded", Text(f"{clock(each.discarded_at.isoformat())} by {each.discarded_by}: {each.because}")
            )
        else:
            table.add_row("What to do", Text(_remedy(each), style="yellow"))
        shown += [table, Text()]
    return Group(*shown[:-1])


def retried(result: Mapping[str, Any]) -> RenderableType:
    """What came of a retry."""
    if not result["tried"]:
        return Text("No row is in quarantine.", style="green")
    left = result["tried"] - result["resolved"]
    lines = [Text(f"  {each['entry']}: {each['transform']} {_parts(each['key'])}: {each['error']}", style="red")
             for each in result["failing"]]  # fmt: skip
    more = [Text(f"  and {left - len(lines):,} more", style="red")] if left > len(lines) else []
    sentence = f"{result['resolved']:,} of {counted(result['tried'], 'row')} resolved."
    return Group(*lines, *more, Text(sentence, style="bold red" if left else "bold green"))


def discarded(result: Mapping[str, Any]) -> RenderableType:
    """What was discarded."""
    lines = [Text(f"  {each['entry']}: {each['transform']} {_parts(each['key'])}") for each in result["discarded"]]
    return Group(*lines, Text(f"{counted(len(lines), 'row')} discarded.", style="bold green"))


def key(entry: Entry) -> str:
    """The key's parts, in a line."""
    return _parts(entry.source_key)


def _remedy(entry: Entry) -> str:
    read, written = SIDES[entry.pipeline]
    return REMEDY.format(id=entry.id, read=read, written=written)


def _parts(parts: Sequence[str]) -> str:
    return ", ".join(parts)


def _error(entry: Entry) -> Text:
    if entry.discarded_at is None:
        return Text(entry.error, style="red")
    return Text(f"discarded by {entry.discarded_by}: {entry.because}", style="dim")
