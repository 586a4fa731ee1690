"""Reading the status from the control tables, once or again and again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from replicator.cli import page
from replicator.cli.reports import Report, Stream
from replicator.cli.signals import passed, stop_on_signal
from replicator.errors import ConnectionLostError, ReplicatorError
from replicator.observe.status import StatusDocument, from_stored, over, stale
from replicator.pipeline.setup import Ends
from replicator.postgres.control import control
from replicator.postgres.control.control import STALE_SECONDS
from replicator.postgres.control.progress import read_progress
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.wire.slots import current_position, read_slot
from replicator.settings import Settings
from replicator.terminal.output import emit, output

REFRESH_SECONDS = 1.0

Show = Callable[[Report], None]


async def read(settings: Settings) -> Report:
    """The report as it is now."""
    async with connection(settings.target, "status") as opened, _sources(settings, opened) as sources:
        return await _read(settings, opened, sources)


Sources = dict[str, Connection]
"""The databases that can be reached, by connection string."""


@asynccontextmanager
async def _sources(settings: Settings, opened: Connection) -> AsyncIterator[Sources]:
    """Both databases: after the cutover, the new one is the source."""
    sources = {settings.target: opened}
    async with AsyncExitStack() as stack:
        if settings.source not in sources:
            with suppress(ReplicatorError):  # what the target says is shown in any case
                sources[settings.source] = await stack.enter_async_context(connection(settings.source, "status"))
        yield sources


async def _read(settings: Settings, opened: Connection, sources: Sources) -> Report:
    alive = await control.daemon_alive(opened)
    stored, phase = None, None
    if await control.installed(opened):
        stored, phase = await control.read_status(opened), await control.read_phase(opened)
    if stored is None:
        return Report(document=None, age_seconds=None, alive=alive)
    document, age = from_stored(stored.document), stored.age_seconds
    if phase == control.FINALIZED:
        return Report(document=over(document), age_seconds=age, alive=alive)
    live = await _live(settings, document, sources)
    if not alive or age > STALE_SECONDS:
        return Report(document=stale(document, age), age_seconds=age, alive=alive, live=live)
    return Report(document=document, age_seconds=age, alive=alive, live=live)


async def _live(settings: Settings, document: StatusDocument, sources: Sources) -> Stream | None:
    """What the servers themselves say of the stream; None when they do not, or when there is none yet."""
    direction = document["direction"]
    ends = Ends.of(settings, direction)
    source, target = sources.get(ends.source_dsn), sources.get(ends.target_dsn)
    if source is None or target is None or document["plugin"] is None:
        return None
    with suppress(ReplicatorError):
        slot = await read_slot(source, ends.slot)
        progress = await read_progress(target, direction)
        if slot is None or progress is None:
            return Stream(slot=ends.slot, active=False)
        return Stream(
            slot=slot.name,
            active=slot.active,
            retained_bytes=slot.retained_bytes,
            lag_bytes=max(0, await current_position(source) - max(progress.applied, slot.confirmed)),
            applied_seconds=progress.stored_ago,
        )
    return None


async def watch(settings: Settings, *, json: bool) -> None:
    """Show the report each second until Ctrl-C: a live page on a terminal, a line for each change elsewhere."""
    with stop_on_signal() as stop:
        if json or not output().is_terminal:
            await _follow(settings, _Lines(json=json).show, lambda _: None, stop)
            return
        with Live(console=output(), auto_refresh=False, vertical_overflow="crop") as live:

            def draw(page: RenderableType) -> None:
                live.update(page, refresh=True)

            await _follow(settings, lambda report: draw(page.whole(report)), lambda lost: draw(Text(lost)), stop)


async def _follow(settings: Settings, show: Show, lost: Callable[[str], None], stop: asyncio.Event) -> None:
    seen = False
    while not stop.is_set():
        try:
            async with connection(settings.target, "status") as opened, _sources(settings, opened) as sources:
                while not stop.is_set():
                    show(await _read(settings, opened, sources))
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
