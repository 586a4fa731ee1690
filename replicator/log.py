"""Structured log: events with keys and counts, never row values. Text on a terminal, JSON lines elsewhere."""

import logging
import sys

import structlog

Logger = structlog.stdlib.BoundLogger


def get_logger(name: str) -> Logger:
    """A logger that adds the part of the program which speaks."""
    logger: Logger = structlog.get_logger(part=name)
    return logger


def configure(*, debug: bool = False) -> None:
    """Log to standard error, from INFO on, or from DEBUG on."""
    renderers: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
