"""What the demo shows while it runs: a line for each step, and on a terminal what goes on below them, live."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from replicator.demo.tally import Tally
from replicator.observe.status import Backfill, StatusDocument, divergent_rows
from replicator.terminal.output import messages
from replicator.terminal.text import counted, lasting, pause, sized

BAR_WIDTH = 24


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What goes on at a moment. ``rate`` and ``slowest`` are of the last seconds."""

    document: StatusDocument | None
    tally: Tally
    rate: float
    slowest: float


class Show:
    """Shows nothing: what ``--json`` has."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the terminal as it was."""

    def say(self, line: str) -> None:
        """A step is done."""

    def doing(self, what: str, *, alone: bool = False) -> None:
        """A step is begun; ``alone``: nothing else goes on."""

    def draw(self, scene: Scene) -> None:
        """What goes on now."""

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began:5.1f} s  "


class Lines(Show):
    """A plain line for each step."""

    def say(self, line: str) -> None:
        """A step is done."""
        messages().print(f"{self._elapsed()}{line}", markup=False)


class Page(Show):
    """The steps, and below them what goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._spinner = Spinner("dots")
        self._live = Live(self._spinner, console=messages(), transient=True, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the page away; the steps stay."""
        self._live.stop()

    def say(self, line: str) -> None:
        """A step is done."""
        table = Table.grid()
        table.add_row(Text(self._elapsed(), style="green"), Text(line))
        self._live.console.print(table)

    def doing(self, what: str, *, alone: bool = False) -> None:
        """A step is begun; ``alone``: nothing else goes on."""
        self._spinner.update(text=Text(what, style="bold"))
        if alone:
            self._live.update(Group(Text(), self._spinner))

    def draw(self, scene: Scene) -> None:
        """What goes on now."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True, min_width=8)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_row("writers", _writers(scene))
        if scene.document is not None:
            for name, facts in _facts(scene.document):
                table.add_row(name, facts)
        self._live.update(Group(Text(), self._spinner, table))


def make_show(*, quiet: bool) -> Show:
    """The show for where the messages go."""
    if quiet:
        return Show()
    return Page() if messages().is_terminal else Lines()


def _writers(scene: Scene) -> Text:
    where = ", ".join(f"{schema} {count:,}" for schema, count in scene.tally.transactions.items())
    text = Text(f"{scene.rate:.0f} transactions/s, slowest of late {pause(scene.slowest)}; {where or 'none yet'}")
    if scene.tally.errors:
        text.append(f", {sum(scene.tally.errors.values())} failed", style="bold red")
    return text


def _facts(document: StatusDocument) -> list[tuple[str, RenderableType]]:
    facts: list[tuple[str, RenderableType]] = [
        ("phase", Text(f"{document['phase']}, the {document['owner']} schema owns the data", style="cyan")),
        ("lag", Text(f"{sized(document['lag_bytes'])}, {lasting(document['lag_seconds'])}")),
    ]
    unfinished = [each for each in document["backfill"] if not each["done"]]
    facts += [("backfill", _bar(each)) for each in unfinished]
    if document["backfill"] and not unfinished:
        rows = sum(each["rows"] for each in document["backfill"])
        facts.append(("backfill", Text(f"done, {counted(rows, 'row')}")))
    facts.append(("verify", _verify(document)))
    gates = [Text(each["name"], style="green" if each["ok"] else "red") for each in document["gates"]]
    if gates:
        facts.append(("gates", Text("  ").join(gates)))
    return facts


def _bar(source: Backfill) -> RenderableType:
    total = max(source["expected"], source["rows"], 1)
    line = Table.grid(padding=(0, 2))
    line.add_row(
        ProgressBar(total=total, completed=source["rows"], width=BAR_WIDTH, complete_style="cyan"),
        f"{source['table']} {source['rows']:,} of {total:,}",
    )
    return line


def _verify(document: StatusDocument) -> Text:
    verify, divergent = document["verify"], divergent_rows(document)
    text = Text(f"{verify.get('text') or 'nothing compared yet'}; {counted(verify['passes'], 'pass', 'passes')}")
    if verify["unsettled"]:
        text.append(f", {counted(verify['unsettled'], 'key')} changed since")
    if (running := verify["running"]) and running["total"]:
        text.append(f", at {min(99, running['done'] * 100 // running['total'])} %")
    if divergent:
        text.append(f", {counted(divergent, 'row')} divergent", style="bold red")
    return text
