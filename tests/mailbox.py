"""A daemon that only answers commands, as the test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from replicator.postgres.control import control, mailbox
from replicator.postgres.control.lease import Lease
from replicator.postgres.control.mailbox import Command
from replicator.postgres.session.connect import Connection, connection
from tests.fix_postgres import Database, Running, _choices, fresh_database
from tests.programs import MIGRATION
from tests.servers import HOW_TO_GET_ONE
from tests.waiting import until

Take = Callable[["Daemon", Command], Awaitable[None]]


@dataclass
class Daemon:
    """Holds the lease, and takes each request the way the test says."""

    connection: Connection
    lease: Lease
    taken: list[Command] = field(default_factory=list)
    dead: bool = False

    async def die(self) -> None:
        self.dead = True
        await self.lease.release()

    async def answer(self, command: Command, exit_code: int, result: Mapping[str, Any]) -> None:
        await mailbox.finish_command(self.connection, command.id, exit_code, result)

    async def cancelled(self, command: Command) -> None:
        """Wait until the request is cancelled."""
        await until(lambda: any(each.arguments == {"id": command.id} for each in self.named("cancel")))

    def named(self, name: str) -> list[Command]:
        return [each for each in self.taken if each.command == name]


@pytest.fixture
def database(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    """On one server only: the commands read and write the control tables, which are the same everywhere."""
    choices = _choices(request.config)
    if not choices:
        pytest.fail(f"No Postgres to test against was found. {HOW_TO_GET_ONE}", pytrace=False)
    with fresh_database(_running.server(choices[0])) as made:
        yield made


@asynccontextmanager
async def daemon(database: Database, take: Take) -> AsyncIterator[Daemon]:
    async with connection(database.dsn, "daemon") as opened:
        await control.install(opened, MIGRATION)
        made = Daemon(opened, await Lease.acquire(database.dsn))
        task = asyncio.create_task(_serve(made, take))
        try:
            yield made
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await made.lease.release()


async def _serve(made: Daemon, take: Take) -> None:
    running: dict[int, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as group:
        while not made.dead:
            for command in await mailbox.pending_commands(made.connection):
                if command.id not in running:
                    made.taken.append(command)
                    await mailbox.start_command(made.connection, command.id)
                    if command.command == "cancel":
                        await made.answer(command, 0, {})
                    running[command.id] = group.create_task(_take(made, command, take))
            await asyncio.sleep(0.02)


async def _take(made: Daemon, command: Command, take: Take) -> None:
    if command.command != "cancel":
        await take(made, command)


async def never(_: Daemon, __: Command) -> None:
    await asyncio.Event().wait()
