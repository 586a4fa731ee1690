"""What of the private Postgres needs no server."""

import socket

import pytest

from replicator.demo import configuration, embedded
from replicator.runtime.binaries import EmbeddedError, parse_version


@pytest.mark.parametrize(
    "text, version",
    [
        ("postgres (PostgreSQL) 18.4\n", 18),
        ("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n", 15),
        ("postgres (PostgreSQL) 19beta1\n", 19),
    ],
)
def test_version_is_read(text: str, version: int) -> None:
    assert parse_version(text) == version


def test_a_version_that_is_none_is_an_error() -> None:
    with pytest.raises(EmbeddedError, match="names no version"):
        parse_version("mysqld 9")


def test_settings_are_quoted_for_the_file() -> None:
    assert configuration.quote_setting("it's C:\\x") == "'it''s C:\\\\x'"


def test_a_port_in_use_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((embedded.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("random.sample", lambda *_: [port])
        with pytest.raises(EmbeddedError, match="is free"):
            embedded.free_port()


STAMP = "2026-11-22 09:32:55.787 UTC [12994] "


@pytest.mark.parametrize(
    "lines, reason",
    [
        (["LOG:  starting", "FATAL:  no room.", "LOG:  database system is shut down"], "FATAL:  no room"),
        (
            [f'{STAMP}LOG:  invalid value for parameter "fsync": "x"', f"{STAMP}FATAL:  file contains errors"],
            'LOG:  invalid value for parameter "fsync": "x"',
        ),
        (
            [
                "LOG:  could not bind IPv4 address: Address already in use",
                "FATAL:  could not create any TCP/IP sockets",
            ],
            "LOG:  could not bind IPv4 address: Address already in use",
        ),
        (["LOG:  starting"], ""),
        ([], ""),
    ],
)
def test_the_line_that_tells_the_reason_is_found(lines: list[str], reason: str) -> None:
    assert embedded.reason_in("\n".join(lines)) == reason
