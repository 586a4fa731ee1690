"""Positions in the write-ahead log: 64-bit byte offsets, printed as Postgres prints them (``16/B374D848``).

See ``pg_lsn`` in the PostgreSQL manual, 8.20.
"""

from typing import NewType

LSN = NewType("LSN", int)
"""A position, in bytes from the log's beginning."""

DurableLSN = NewType("DurableLSN", LSN)
"""A position up to which all is committed on the target. Only ``progress.commit_through`` makes one, and the follower
confirms no other to the slot: the server forgets the log up to there (I2)."""

ZERO = LSN(0)


def parse_lsn(text: str) -> LSN:
    """Read ``XXX/XXX``. Raises ValueError when the text is no position."""
    high, slash, low = text.partition("/")
    if not slash:
        raise ValueError(f"not a WAL position: {text!r}")
    return LSN((int(high, 16) << 32) | int(low, 16))


def format_lsn(lsn: int) -> str:
    """Print a position the way Postgres does."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
