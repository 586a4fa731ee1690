"""The process' log while a test configures it for streams that are gone afterwards."""

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import structlog


@contextlib.contextmanager
def log_as_before() -> Iterator[None]:
    """Give back what ``replicator.runtime.log.configure`` sets, at the end of the block."""
    before, handlers, show = structlog.get_config(), logging.root.handlers, warnings.showwarning
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    try:
        yield
    finally:
        structlog.configure(**before)
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        warnings.showwarning = show
        logging.root.handlers = handlers
