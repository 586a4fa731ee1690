"""What the demo shows while it runs: a line for each step, and on a terminal a live page below them."""

from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from replicator.cli import page
from replicator.cli.output import messages
from replicator.cli.text import counted, pause
from replicator.demo.tally import Tally
from replicator.observe.status import StatusDocument


class Show:
    """Shows nothing: what ``--json`` has."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the terminal as it was."""

    def say(self, line: str) -> None:
        """A step is done."""

    def draw(self, document: StatusDocument | None, tally: Tally, rate: float, slowest: float) -> None:
        """What is going on now."""


class Lines(Show):
    """A plain line for each step."""

    def say(self, line: str) -> None:
        """A step is done."""
        messages().print(line, markup=False)


class Page(Show):
    """The steps, and below them the daemon's status and the writers, live."""

    def __init__(self) -> None:
        self._live = Live(console=messages(), transient=True, refresh_per_second=8, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the page away; the steps stay."""
        self._live.stop()

    def say(self, line: str) -> None:
        """A step is done."""
        self._live.console.print(Text.assemble(("ok  ", "green"), line))

    def draw(self, document: StatusDocument | None, tally: Tally, rate: float, slowest: float) -> None:
        """What is going on now."""
        shown: list[RenderableType] = [Text(), _writers(tally, rate, slowest)]
        if document is not None:
            shown.append(page.whole(page.Report(document=document, age_seconds=0.0, alive=True)))
        self._live.update(Group(*shown))


def make_show(*, quiet: bool) -> Show:
    """The show for where the messages go."""
    if quiet:
        return Show()
    return Page() if messages().is_terminal else Lines()


def _writers(tally: Tally, rate: float, slowest: float) -> Text:
    where = ", ".join(f"{count:,} to {schema}" for schema, count in tally.transactions.items())
    failed = f", {counted(sum(tally.errors.values()), 'failed one')}" if tally.errors else ""
    return Text.assemble(
        ("writers  ", "bold"),
        f"{rate:.0f} transactions/s, slowest of late {pause(slowest)}; {where or 'none yet'}",
        (failed, "bold red"),
    )
