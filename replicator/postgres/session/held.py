"""A connection whose transaction a move holds, and on which several tasks read: what begins and ends there, one by one.

Its state does not tell whether it is inside a transaction: while another task's statement runs, it is "active". Who
took that for "outside" would begin a transaction inside of the move's, and end the move's by ending it: what it locks
would be open, and its statements committed one by one. Savepoints of two tasks must not cross either.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from replicator.postgres.session.connect import Connection

_held: WeakKeyDictionary[Connection, asyncio.Lock] = WeakKeyDictionary()


def hold(connection: Connection) -> None:
    """From here on, until it is closed, the connection is inside a transaction that only its holder ends."""
    _held.setdefault(connection, asyncio.Lock())


def is_held(connection: Connection) -> bool:
    """Whether somebody holds its transaction."""
    return connection in _held


@asynccontextmanager
async def alone_on(connection: Connection) -> AsyncIterator[bool]:
    """Whether somebody holds its transaction; nobody else reads there meanwhile. Not to be nested."""
    lock = _held.get(connection)
    if lock is None:
        yield False
        return
    async with lock:
        yield True
