"""What may be repeated of an error that Postgres reports, in messages that people keep."""

import re

import psycopg

_BY_LANGUAGES = re.compile(r"pl(?!an)")
"""Source files of procedural languages (pl_exec.c, plpy_elog.c); the planner's are called plan*.c."""

OURS = "RP"
"""SQLSTATEs of functions of ours: their messages hold names only."""
DECODING = "slot "
"""How the context of an error of an output plugin begins: no function of a user's runs there."""


def said(error: psycopg.Error) -> str:
    """The message of the server, or only its condition where the message may quote a value of a row.

    The text of ``RAISE`` is the author's own. And what fails inside a function is a statement of that function, which
    may hold a value where a name is expected, as ``email::regclass`` does; the server then reports a context.
    """
    if error.diag.message_primary is None:
        return type(error).__name__
    if (error.sqlstate or "").startswith(OURS):
        return error.diag.message_primary
    context = error.diag.context or ""
    if raised(error) or (context and not context.startswith(DECODING)):
        return f"{type(error).__name__}, in a function or while rows were read; the server's log has the message"
    return error.diag.message_primary


def raised(error: psycopg.Error) -> bool:
    """Whether a function has raised it: then even the names of constraints and columns in it may be values."""
    return bool(_BY_LANGUAGES.match(error.diag.source_file or ""))
