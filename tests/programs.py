"""The program as a process of its own, with what it prints."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from psycopg.conninfo import conninfo_to_dict

from replicator import Migration
from tests.daemon import ROOT
from tests.fix_postgres import Database

MIGRATION = Migration("party", old="public", new="party")

SECRET = "geheim-4711"


@dataclass
class Program:
    """The program as a process, with what it has printed so far."""

    process: asyncio.subprocess.Process
    out: str = ""
    err: str = ""
    readers: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    async def start(cls, database: Database, *arguments: str) -> "Program":
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "replicator", *arguments),
            env=environment(database),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        program = cls(process)
        program.readers = [asyncio.create_task(program._read(name)) for name in ("out", "err")]
        return program

    async def _read(self, name: str) -> None:
        stream = self.process.stdout if name == "out" else self.process.stderr
        assert stream is not None
        while data := await stream.read(4096):
            setattr(self, name, getattr(self, name) + data.decode())

    async def end(self) -> tuple[int, str, str]:
        """Wait for it; gives the exit code and what it printed."""
        code = await self.process.wait()
        await asyncio.gather(*self.readers)
        assert SECRET not in self.out + self.err
        assert "Traceback" not in self.err
        return code, self.out, self.err

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def environment(database: Database) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
    return {**kept, "REPLICATOR_SOURCE_DSN": with_secret(database.dsn), "PYTHONUNBUFFERED": "1"}


def with_secret(dsn: str) -> str:
    """The DSN, with a password if it has none: the server does not ask for it."""
    if conninfo_to_dict(dsn).get("password"):
        return dsn
    return dsn.replace("@", f":{SECRET}@", 1) if dsn.startswith("postgres") else f"{dsn} password={SECRET}"


async def replicator(database: Database, *arguments: str) -> tuple[int, str, str]:
    return await (await Program.start(database, *arguments)).end()


@pytest.fixture(autouse=True)
def heeded_signals() -> Iterator[None]:
    """As in a shell's foreground: under nohup and in the background some are ignored, in child processes too."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
