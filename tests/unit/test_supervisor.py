"""The death of any task ends the daemon, also of one whose place is taken before anybody has looked."""

import asyncio

import pytest

from replicator.errors import NotReadyError
from replicator.runtime.supervisor import Supervisor


async def fail() -> None:
    raise NotReadyError("It fails.")


async def test_a_task_that_failed_is_not_forgotten_for_the_next_of_its_name() -> None:
    supervisor = Supervisor()
    supervisor.start("work", fail())
    await asyncio.sleep(0)
    assert not supervisor.running("work")
    supervisor.start("work", asyncio.sleep(60))
    supervisor.start("stop", asyncio.sleep(60))
    with pytest.raises(NotReadyError):
        await asyncio.wait_for(supervisor.wait(ending="stop"), 10)
    await supervisor.stop_all()


async def test_what_is_started_while_all_is_stopped_does_not_run() -> None:
    supervisor, ran = Supervisor(), asyncio.Event()

    async def late() -> None:
        ran.set()

    async def start_another_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            supervisor.start("late", late())

    supervisor.start("work", start_another_at_the_end())
    await asyncio.sleep(0)
    await supervisor.stop_all()
    await asyncio.sleep(0)
    assert not ran.is_set()
