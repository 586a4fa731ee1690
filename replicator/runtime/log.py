"""Structured log: events with keys and counts, never row values. Text on a terminal, JSON lines elsewhere.

An exception is shown by its type and where it was raised. Its message is shown only if the exception is one of ours:
Postgres, psycopg and the authors' code quote values of rows in theirs, and a traceback with local variables holds whole
rows.
"""

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import structlog

from replicator.errors import ReplicatorError

Logger = structlog.stdlib.BoundLogger


def get_logger(name: str) -> Logger:
    """A logger that adds the part of the program which speaks."""
    logger: Logger = structlog.get_logger(part=name)
    return logger


def configure(*, debug: bool = False) -> None:
    """Log to standard error, from INFO on, or from DEBUG on; what libraries log, and what nobody catches, likewise."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(lambda raised: traceback_of(raised[1]).rstrip()),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Without these, the interpreter prints plain text between JSON lines, with messages that may quote a row.
    logging.root.handlers = [_FromLibraries()]
    warnings.showwarning = _warned
    sys.excepthook = lambda _, error, __: _uncaught("uncaught exception", error)
    threading.excepthook = lambda given: _uncaught("uncaught exception in a thread", given.exc_value)
    sys.unraisablehook = lambda given: _uncaught("exception in a finalizer", given.exc_value)


def traceback_of(error: BaseException) -> str:
    """The traceback, with its causes, as Python prints it, without local variables and without foreign messages."""
    return "".join(_lines(error, set()))


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    origin, link = error.__cause__, "The above exception was the direct cause of the following exception:"
    if origin is None and not error.__suppress_context__:
        origin, link = error.__context__, "During handling of the above exception, another exception occurred:"
    if origin is not None and id(origin) not in seen:
        yield from _lines(origin, seen)
        yield f"\n{link}\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{_named(error)}\n"
    if isinstance(error, BaseExceptionGroup):
        for number, each in enumerate(error.exceptions, 1):
            yield f"---- {number} of {len(error.exceptions)}\n"
            yield from _lines(each, seen)


def _named(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name}: {error}" if isinstance(error, ReplicatorError) else name


def _warned(
    message: Warning | str,  # noqa: ARG001  # it may quote a value, as an exception's
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001  # as the standard library calls it
    line: str | None = None,  # noqa: ARG001
) -> None:
    get_logger("python").warning("warning", category=category.__name__, place=f"{Path(filename).name}:{lineno}")


def _uncaught(event: str, error: BaseException | None) -> None:
    get_logger("python").error(event, **({} if error is None else {"exc_info": error}))


class _FromLibraries(logging.Handler):
    """What libraries log by the standard library: the text as their code has it, without what is put into it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        # The arguments may quote a row, and asyncio appends the representation of a task to its message.
        event = str(record.msg).splitlines()[0] if record.msg else "?"
        error = record.exc_info[1] if record.exc_info else None
        shown: dict[str, Any] = {} if error is None else {"exc_info": error}
        get_logger(record.name).log(record.levelno, event, **shown)
