"""Many share it, or one has it; in the order of asking."""

import asyncio

from replicator.exclusion import Exclusion


class Holder:
    """Takes the exclusion in a task, and lets it go when told."""

    def __init__(self, exclusion: Exclusion, *, alone: bool) -> None:
        self.entered = False
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(exclusion.alone() if alone else exclusion.shared()))

    async def _hold(self, manager: object) -> None:
        async with manager:  # type: ignore[attr-defined]
            self.entered = True
            await self.leave.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_sharers_share_and_one_alone_waits_for_them() -> None:
    exclusion = Exclusion()
    first, second = Holder(exclusion, alone=False), Holder(exclusion, alone=False)
    await settle()
    alone = Holder(exclusion, alone=True)
    late = Holder(exclusion, alone=False)
    await settle()
    assert (first.entered, second.entered, alone.entered, late.entered) == (True, True, False, False)
    first.leave.set()
    await settle()
    assert not alone.entered
    second.leave.set()
    await settle()
    assert (alone.entered, late.entered) == (True, False)
    alone.leave.set()
    await settle()
    assert late.entered
    late.leave.set()
    await late.task


async def test_a_busy_applier_lets_sharers_in_between() -> None:
    exclusion = Exclusion()
    first = Holder(exclusion, alone=True)
    await settle()
    sharer, again = Holder(exclusion, alone=False), Holder(exclusion, alone=True)
    await settle()
    first.leave.set()
    await settle()
    assert (sharer.entered, again.entered) == (True, False)
    sharer.leave.set()
    again.leave.set()
    await again.task


async def test_who_gives_up_waiting_stands_in_nobodys_way() -> None:
    exclusion = Exclusion()
    first = Holder(exclusion, alone=True)
    await settle()
    quitter, next_one = Holder(exclusion, alone=True), Holder(exclusion, alone=False)
    await settle()
    quitter.task.cancel()
    first.leave.set()
    await settle()
    assert next_one.entered
    next_one.leave.set()
    await next_one.task


async def test_cancelled_in_the_moment_of_entering() -> None:
    exclusion = Exclusion()
    first = Holder(exclusion, alone=True)
    await settle()
    unlucky, next_one = Holder(exclusion, alone=True), Holder(exclusion, alone=True)
    await settle()
    first.leave.set()
    await asyncio.sleep(0)  # the first leaves and admits the unlucky one, which has not run yet
    unlucky.task.cancel()
    await settle()
    assert next_one.entered or unlucky.entered
    next_one.leave.set()
    unlucky.leave.set()
    await asyncio.gather(next_one.task, unlucky.task, return_exceptions=True)
    async with asyncio.timeout(5), exclusion.alone():
        pass
