"""Puts one expression, or name, in the place of a column in another."""

import re
from collections.abc import Sequence
from typing import Final

from replicator.core.tables import Name
from replicator.errors import ReplicatorError
from replicator.postgres.attached import Attached, rendered
from replicator.postgres.ddl.quoting import Quoter
from replicator.postgres.ddl.statements import TOKEN, after_block
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.session.server import fetch_plain

STANDS_IN: Final = "replicator_value"
OPENING, END = "(", " IS NULL)"
"""What stands around the expression in the condition that the server shows."""
ZONE: Final = re.compile(r"time\s+zone\b|zone\b|local\b", re.IGNORECASE)
"""After AT, which is no column then."""

SHOWN: Final = """
    SELECT pg_get_expr(conbin, conrelid) AS text FROM pg_constraint
    WHERE conrelid = to_regclass(%(table)s) AND conname = 'replicator_condition'
"""


async def applied(
    connection: Connection, quote: Quoter, table: str, columns: Sequence[Attached], column: str, using: str, value: str
) -> str | None:
    """What an expression over a table's columns is for a value of one of them; None where the server refuses it.

    The server reads it, as the condition of a table, and is told that the column has another name: only it knows which
    words of the expression are columns.
    """
    called = quote(table)
    lines = ", ".join(rendered(each.fragment, Name(schema="", table=called), quote=quote) for each in columns)
    statements = (
        f"CREATE TEMP TABLE {called} ({lines})",
        f"ALTER TABLE pg_temp.{called} ADD CONSTRAINT replicator_condition CHECK (({using}\n) IS NULL)",
        f"ALTER TABLE pg_temp.{called} RENAME COLUMN {quote(column)} TO {STANDS_IN}",
    )
    try:
        with translated():
            async with connection.transaction(force_rollback=True):
                for each in statements:
                    await connection.execute(each.encode())
                (row,) = await fetch_plain(connection, SHOWN, table=f"pg_temp.{called}")
    except ReplicatorError:
        return None
    shown = str(row["text"])
    if not (shown.startswith(OPENING) and shown.endswith(END)):
        return None
    inner = re.sub(rf"\b{STANDS_IN}\b", lambda _: f"({value})", shown[len(OPENING) : -len(END)])
    return f"({inner})"


def in_place_of(text: str, column: str, put: str) -> str:
    """The key of a partitioned table in which a column has another name."""
    parts, at, before = list[str](), 0, ""
    while token := TOKEN.match(text, at):
        begin, at = at, token.end()
        if token["block"]:
            at = after_block(text, at)
        part = text[begin:at]
        named = part[1:-1].replace('""', '"') if part.startswith('"') else part.lower() if token["word"] else None
        rest = text[at:].lstrip()
        alone = before not in (".", "::") and not rest.startswith((".", "("))
        keyword = part.lower() == "at" and ZONE.match(rest) is not None
        parts.append(put if named == column and alone and not keyword else part)
        if not part.isspace() and not token["comment"]:
            before = "::" if part == ":" else part
    return "".join(parts)
