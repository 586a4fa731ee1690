"""Quotes names as the server does: only where it must be, so that people can read the SQL."""

import re
from typing import Final

from replicator.postgres.session.connect import Connection
from replicator.postgres.session.server import fetch_plain

PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")
KEYWORDS: Final = "SELECT word FROM pg_get_keywords() WHERE catcode <> 'U'"


class Quoter:
    """Quotes names for SQL that is written to a file."""

    def __init__(self, keywords: frozenset[str]) -> None:
        self._keywords = keywords

    def __call__(self, name: str) -> str:
        """The name, in quotes where Postgres would read another one, or none, without them."""
        if PLAIN.fullmatch(name) and name not in self._keywords:
            return name
        return '"' + name.replace('"', '""') + '"'


async def read_quoter(connection: Connection) -> Quoter:
    """With the keywords that this server knows."""
    return Quoter(frozenset(each["word"] for each in await fetch_plain(connection, KEYWORDS)))
