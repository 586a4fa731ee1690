"""How far the daemon is with a request: a live display on a terminal, a line for each step elsewhere."""

from types import TracebackType
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.spinner import Spinner
from rich.text import Text

from replicator.cli.views import gates
from replicator.postgres.control.mailbox import Command
from replicator.terminal.output import messages

ASKED = "waiting for the daemon to take the request"


class Display:
    """Shows nothing: what the other displays share, and what ``--json`` has."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the terminal as it was."""

    def show(self, command: Command) -> None:
        """Take in the request's state."""

    def note(self, text: str) -> None:
        """Say something besides."""
        messages().print(text, markup=False)


class Lines(Display):
    """A line whenever the step is another one."""

    def __init__(self) -> None:
        self._said: tuple[str, tuple[str, ...]] = ("", ())

    def show(self, command: Command) -> None:
        """Take in the request's state."""
        closed = ", ".join(each["name"] for each in progress_of(command).get("gates") or () if not each["ok"])
        said = f"{step_of(command)}{f' (not open: {closed})' if closed else ''}"
        way = in_the_way(command)
        # How long it has waited is another time at each look: it is told anew when it is somebody else.
        key = (said, tuple(each.split(": ")[0] for each in way))
        if key != self._said and command.finished_at is None:
            self._said = key
            self.note(said)
            for each in way:
                self.note(f"  in the way: {each}")


class Bar(Display):
    """A progress bar over ``done`` of ``total``."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=messages(),
            transient=True,
        )
        self._task: TaskID = self._progress.add_task(ASKED, total=None, count="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the bar away."""
        self._progress.stop()

    def show(self, command: Command) -> None:
        """Take in the request's state."""
        progress = progress_of(command)
        done, total = progress.get("done", 0), progress.get("total")
        count = f"{done:,} of {total:,}" if total else ""
        self._progress.update(self._task, description=step_of(command), completed=done, total=total, count=count)

    def note(self, text: str) -> None:
        """Say something besides, above the bar."""
        self._progress.console.print(text, markup=False)


class Steps(Display):
    """The step, and the gates while it waits for them."""

    def __init__(self) -> None:
        self._spinner = Spinner("dots", ASKED)
        self._live = Live(self._spinner, console=messages(), transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the display away."""
        self._live.stop()

    def show(self, command: Command) -> None:
        """Take in the request's state."""
        self._spinner.update(text=step_of(command))
        shown: list[RenderableType] = [self._spinner]
        shown += [Text(f"in the way: {each}", style="yellow") for each in in_the_way(command)]
        if found := progress_of(command).get("gates"):
            shown.append(gates(found))
        self._live.update(Group(*shown))

    def note(self, text: str) -> None:
        """Say something besides, above the display."""
        self._live.console.print(text, markup=False)


class Meter:
    """The step of what this process does itself, and how far it is: live on a terminal, a line a step elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        console = messages()
        self._quiet = quiet
        self._said = ""
        self._spinner = Spinner("dots", "")
        self._live = Live(self._spinner, console=console, transient=True) if console.is_terminal and not quiet else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the display away."""
        if self._live:
            self._live.stop()

    def show(self, step: str, detail: str = "") -> None:
        """Take in the step, and how far it is."""
        if self._live:
            self._spinner.update(text=f"{step}: {detail}" if detail else step)
        elif step != self._said and not self._quiet:
            messages().print(step, markup=False)
        self._said = step

    def note(self, text: str) -> None:
        """Say something besides."""
        (self._live.console if self._live else messages()).print(text, markup=False)


class Gauge:
    """How far this process is with something that it counts: a bar on a terminal, else a line at each tenth."""

    def __init__(self, *, quiet: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=messages(),
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("", total=None, count="")
        self._live = messages().is_terminal and not quiet
        self._quiet = quiet
        self._said = ""

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the bar away."""
        if self._live:
            self._progress.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Take in how far it is; ``total`` may be an estimate."""
        total = max(done, total)
        if self._live:
            count = f"{done:,} of {total:,}"
            self._progress.update(self._task, description=what, completed=done, total=total, count=count)
            return
        said = f"{what}: {done * 10 // max(total, 1) * 10} %"
        if said != self._said and not self._quiet:
            messages().print(said, markup=False)
        self._said = said

    def note(self, text: str) -> None:
        """Say something besides."""
        (self._progress.console if self._live else messages()).print(text, markup=False)


def display(kind: type[Display], *, quiet: bool) -> Display:
    """The display for where the messages go."""
    if quiet:
        return Display()
    return kind() if messages().is_terminal else Lines()


def progress_of(command: Command) -> dict[str, Any]:
    """What the daemon has told so far."""
    return command.progress or {}


def step_of(command: Command) -> str:
    """What the daemon is at, in words."""
    progress = progress_of(command)
    if step := progress.get("what") or progress.get("step"):
        return str(step)
    return "the daemon has begun" if command.started_at else ASKED


def in_the_way(command: Command) -> list[str]:
    """Whom the daemon waits for."""
    return [str(each) for each in progress_of(command).get("in_the_way") or ()]
