"""Whose error it is when Postgres refuses a statement that carries rows: a row's, unless it is listed here."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from replicator.errors import DatabaseError, ReplicatorError, RowError
from replicator.postgres.session.connect import RETRYABLE, translate
from replicator.postgres.session.wording import raised

STOPPING: Final = {
    "08": "the connection is gone",
    "53": "the server lacks disk, memory or connections, whatever the row",
    "57": "the server is shut down, or somebody has cancelled the statement",
    "58": "the server cannot read or write its files",
}
"""SQLSTATEs, or classes of them, that no row explains, each with the reason (Postgres documentation, appendix A).

Damaged data (XX001, XX002) is not among them: mostly one value cannot be read. Nor is what a function has raised, whose
author may have chosen any SQLSTATE: it is a judgement on a row.
Those that come without any row as well (a missing table, privilege or column; a read-only server) need no place here:
``rearranging.without_rows`` asks for them.
"""

ROWS_OWN: Final = ("21", "22", "23", "44", "54", "P0")
"""Classes that may well be raised for each of many rows. Of any other, that all rows meet it says that it is none's."""


def is_rows(state: str | None) -> bool:
    """Whether one row may have caused an error with this SQLSTATE, which no function has raised."""
    return state is None or not (state in RETRYABLE or state.startswith(tuple(STOPPING)))


@contextmanager
def refusing() -> Iterator[None]:
    """As ``translated``, around a statement that carries rows: what one of them may have caused becomes a RowError.

    What the driver raises when it encodes a value is one too, whatever its class.
    """
    try:
        yield
    except psycopg.Error as error:
        raise _refused(error) from None  # Postgres and the driver quote the row
    except ReplicatorError:
        raise
    except Exception as error:  # noqa: BLE001  UnicodeEncodeError, OverflowError, MemoryError ...
        raise RowError(f"A value cannot be sent to Postgres: {type(error).__name__}.") from None


def _refused(error: psycopg.Error) -> ReplicatorError:
    ours = translate(error)
    if isinstance(ours, RowError):
        return ours
    if error.sqlstate is None:
        # Of a lost connection the driver gives no SQLSTATE either, but another class.
        return ours if not isinstance(ours, DatabaseError) else RowError(
            f"A value cannot be sent to Postgres: {type(error).__name__}."
        )  # fmt: skip
    judged = raised(error)
    if not (judged or is_rows(error.sqlstate)):
        return ours
    refused = RowError(
        f"Postgres refused a row: {type(error).__name__} ({error.sqlstate}){_where(error)}.",
        "Mend the row, the transform, or what refuses it.",
        error.sqlstate,
    )
    refused.judged = judged
    return refused


def _where(error: psycopg.Error) -> str:
    """The names that Postgres gives beside the message; the message itself may quote the row."""
    if raised(error):
        return ", raised by a function"
    diag = error.diag
    named = (("constraint", diag.constraint_name), ("column", diag.column_name), ("table", diag.table_name))
    return "".join(f", {what} {name}" for what, name in named if name)
