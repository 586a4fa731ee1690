"""Tells the server at regular times that we are there, whatever keeps the event loop busy."""

import asyncio
import contextlib
import threading
from collections.abc import Callable


async def keep_telling(tell: Callable[[], None], every: float) -> None:
    """Call ``tell`` again and again from a thread of its own, until the task is cancelled or ``tell`` raises.

    Transforms are the authors' own Python, and run in the event loop. A server that hears nothing for
    ``wal_sender_timeout`` ends the stream, and what was being derived is begun anew, without end. What keeps the
    interpreter's lock all the time, such as an extension in C that never releases it, stops this thread too.

    :param tell: must be safe to call from another thread.
    :param every: seconds from one call to the next.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    stopping = threading.Event()

    def keep_on() -> None:
        try:
            while not stopping.is_set():
                tell()
                stopping.wait(every)
        except Exception as error:  # noqa: BLE001  it is raised in the task
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_fail, ended, error)

    threading.Thread(target=keep_on, name="feedback", daemon=True).start()
    try:
        await ended
    finally:
        stopping.set()


def _fail(ended: "asyncio.Future[None]", error: Exception) -> None:
    if not ended.done():
        ended.set_exception(error)
