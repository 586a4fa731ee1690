"""What the log shows of exceptions and of what libraries say: types and places, never a message that quotes a row."""

import asyncio
import gc
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from replicator.errors import ReplicatorError, unexpected
from replicator.runtime import log
from tests.logs import log_as_before

CANARY = "canary@example.org"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    with log_as_before():
        yield


@pytest.fixture(params=["text", "json"])
def configured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """To be called in the test itself: what it captures is another stream before."""

    def configure() -> str:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: request.param == "text")
        log.configure()
        return str(request.param)

    return configure


def fails(row: dict[str, str]) -> None:
    secret = row["email"]
    try:
        raise KeyError(secret)
    except KeyError as error:
        raise ReplicatorError("The row was refused.", "Mend it.") from error


def said(capsys: pytest.CaptureFixture[str], terminal: str) -> str:
    text = capsys.readouterr().err
    if terminal == "json":
        for line in text.splitlines():
            assert json.loads(line)["part"]
    assert text
    assert CANARY not in text
    return text


def test_a_traceback_has_no_locals_and_no_foreign_message(
    capsys: pytest.CaptureFixture[str], configured: Callable[[], str]
) -> None:
    terminal = configured()
    try:
        fails({"email": CANARY})
    except ReplicatorError:
        log.get_logger("test").exception("it failed")
    text = said(capsys, terminal)
    for shown in ("KeyError", "test_log.py", "in fails", "The row was refused.", "direct cause"):
        assert shown in text


def test_what_nobody_catches_is_a_line_of_the_log(
    capsys: pytest.CaptureFixture[str], configured: Callable[[], str]
) -> None:
    terminal = configured()

    def fail() -> None:
        raise ValueError(CANARY)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert "ValueError" in said(capsys, terminal)


class Broken:
    def __del__(self) -> None:
        raise ValueError(CANARY)


def test_what_a_finalizer_raises_is_too(capsys: pytest.CaptureFixture[str], configured: Callable[[], str]) -> None:
    terminal = configured()
    Broken()
    gc.collect()
    assert "ValueError" in said(capsys, terminal)


async def test_a_task_that_nobody_awaits(capsys: pytest.CaptureFixture[str], configured: Callable[[], str]) -> None:
    terminal = configured()

    async def fail(_: str) -> None:
        raise ValueError(CANARY)

    task: Any = asyncio.create_task(fail(CANARY))
    await asyncio.wait([task])
    del task
    gc.collect()
    text = said(capsys, terminal)
    assert "Task exception was never retrieved" in text
    assert "ValueError" in text


def test_what_libraries_log_is_shown_without_arguments(
    capsys: pytest.CaptureFixture[str], configured: Callable[[], str]
) -> None:
    terminal = configured()
    logging.getLogger("psycopg").warning("error ignored: %s", CANARY)
    assert "error ignored" in said(capsys, terminal)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"odd: {CANARY}", stacklevel=1)
    assert "UserWarning" in said(capsys, terminal)


def test_groups_are_shown_with_all_their_members() -> None:
    group = ExceptionGroup(CANARY, [ValueError(CANARY), psycopg.DataError(CANARY), ReplicatorError("It is full.")])
    text = log.traceback_of(group)
    assert CANARY not in text
    for shown in ("ExceptionGroup", "ValueError", "psycopg.DataError", "It is full."):
        assert shown in text


def test_an_unexpected_exception_is_named_by_type_and_place() -> None:
    try:
        raise ValueError(CANARY)
    except ValueError as error:
        shown = unexpected(error)
    assert re.fullmatch(r"unexpected ValueError in test_log\.py, line \d+", shown)
