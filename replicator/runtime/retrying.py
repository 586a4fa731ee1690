"""The one way to repeat what another session, or a server, was in the way of.

What the engine does in another way the next time (a batch is extended, a chunk is halved, a cutover waits longer) is no
repetition of this kind, and stands where it is done. A library would save none of these lines: what matters is what
happens between two tries, as when somebody is told who was in the way, or an invalid index is dropped.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


async def retry(
    work: Callable[[], Awaitable[T]],
    *,
    on: type[E],
    when: Callable[[E], bool] = lambda _: True,
    tries: int | None = None,
    pause: float | Callable[[int], float] = 0.0,
    between: Callable[[E], Awaitable[object]] | None = None,
) -> T:
    """Do something until it does not raise.

    :param on: the errors after which it is tried again, if ``when`` says so of the error.
    :param tries: how often it is done, at most; None: as long as ``when`` lets it.
    :param pause: seconds between two tries, or how many there are after so many tries.
    :param between: is awaited after a failure that is not the last, before the pause.
    :raises E: the last one.
    """
    tried = 0
    while True:
        try:
            return await work()
        except on as error:
            tried += 1
            if tried == tries or not when(error):
                raise
            if between is not None:
                await between(error)
        await asyncio.sleep(pause(tried) if callable(pause) else pause)
