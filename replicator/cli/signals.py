"""Ctrl-C and SIGTERM as an event, so that a command can end in good order."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

INTERRUPTED = 130
AT_ONCE_SECONDS = 1.0

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_on_signal(told: Callable[[str], None] = lambda _: None) -> Iterator[asyncio.Event]:
    """Set the event at the first signal; a second one has its default back, and ends the process.

    What has to be cleaned up then may wait for a server: it is left alone after ``AT_ONCE_SECONDS``.

    :param told: is called with the signal's name when the event is set.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    ending = threading.Timer(AT_ONCE_SECONDS, _end)
    ending.daemon = True
    heeded = [each for each in STOPPING if signal.getsignal(each) is not signal.SIG_IGN]  # nohup ignores SIGHUP

    def restore() -> None:
        for each in heeded:
            loop.remove_signal_handler(each)

    def second(number: int, frame: FrameType | None) -> None:
        ending.start()
        signal.default_int_handler(number, frame)

    def first(received: signal.Signals) -> None:
        restore()
        if signal.SIGINT in heeded:
            signal.signal(signal.SIGINT, second)
        stop.set()
        told(received.name)

    for each in heeded:
        loop.add_signal_handler(each, first, each)
    try:
        yield stop
    finally:
        ending.cancel()
        if signal.getsignal(signal.SIGINT) is second:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        restore()


def _end() -> None:
    """End the process, whatever it is at; a display that is live has hidden the cursor."""
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), b"\x1b[?25h\n")
    os._exit(INTERRUPTED)


def run_stoppable(work: Coroutine[Any, Any, T], told: Callable[[str], None]) -> T:
    """Run to the end, or until the first signal, which cancels it; raises KeyboardInterrupt when it has cleaned up.

    :param told: is called with what the user should know when it is cancelled.
    """

    async def run() -> T:
        with stop_on_signal() as stop:
            task = asyncio.create_task(work)
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if stop.is_set() and not task.done():
                told("Stopping and cleaning up; Ctrl-C again does not wait for it.")
                task.cancel()
            return await task

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def passed(stop: asyncio.Event, seconds: float) -> bool:
    """Wait; gives True as soon as the event is set."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
