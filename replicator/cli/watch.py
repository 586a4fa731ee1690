"""Reading the status from the control tables, once or again and again."""

import asyncio
from collections.abc import Callable

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from replicator.cli import page
from replicator.cli.output import emit, output
from replicator.cli.page import Report
from replicator.cli.signals import passed, stop_on_signal
from replicator.errors import ConnectionLostError
from replicator.observe.status import from_stored, over
from replicator.postgres import control
from replicator.postgres.connect import Connection, connection

REFRESH_SECONDS = 1.0

Show = Callable[[Report], None]


async def read(dsn: str) -> Report:
    """The report as it is now."""
    async with connection(dsn, "status") as opened:
        return await _read(opened)


async def _read(opened: Connection) -> Report:
    alive = await control.daemon_alive(opened)
    stored, phase = None, None
    if await control.installed(opened):
        stored, phase = await control.read_status(opened), await control.read_phase(opened)
    document = from_stored(stored.document) if stored else None
    return Report(
        document=over(document) if document and phase == control.FINALIZED else document,
        age_seconds=stored.age_seconds if stored else None,
        alive=alive,
    )


async def watch(dsn: str, *, json: bool) -> None:
    """Show the report each second until Ctrl-C: a live page on a terminal, a line for each change elsewhere."""
    with stop_on_signal() as stop:
        if json or not output().is_terminal:
            await _follow(dsn, _Lines(json=json).show, lambda _: None, stop)
            return
        with Live(console=output(), auto_refresh=False, vertical_overflow="crop") as live:

            def draw(page: RenderableType) -> None:
                live.update(page, refresh=True)

            await _follow(dsn, lambda report: draw(page.whole(report)), lambda lost: draw(Text(lost)), stop)


async def _follow(dsn: str, show: Show, lost: Callable[[str], None], stop: asyncio.Event) -> None:
    seen = False
    while not stop.is_set():
        try:
            async with connection(dsn, "status") as opened:
                while not stop.is_set():
                    show(await _read(opened))
                    seen = True
                    await passed(stop, REFRESH_SECONDS)
        except ConnectionLostError as error:
            if not seen:
                raise
            lost(f"{error.problem} Trying again.")
            await passed(stop, REFRESH_SECONDS)


class _Lines:
    """Prints a report when what it says is not what was printed last."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._said = ""

    def show(self, report: Report) -> None:
        said = page.line(report)
        if said == self._said:
            return
        self._said = said
        if self._json:
            emit(page.as_json(report), one_line=True)
        else:
            output().print(said, markup=False)
