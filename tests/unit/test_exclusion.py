"""Many share it, or one has it; in the order of asking."""

import asyncio

from replicator.core.rw_lock import Exclusion


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


async def test_who_holds_it_alone_lets_in_those_whom_it_does_not_concern() -> None:
    exclusion = Exclusion()
    inside: list[str] = []

    async def share(source: str, leave: asyncio.Event) -> None:
        async with exclusion.shared(source):
            inside.append(source)
            await leave.wait()
            inside.remove(source)

    leave = asyncio.Event()
    async with exclusion.alone():
        tasks = [asyncio.create_task(share(source, leave)) for source in ("a", "b")]
        next_alone = Holder(exclusion, alone=True)
        await settle()
        assert inside == []
        await exclusion.narrow({"a"})
        await settle()
        assert inside == ["b"]
        narrowing = asyncio.create_task(exclusion.narrow({"b"}))
        await settle()
        assert not narrowing.done(), "the holder must not go on to what another is at"
        leave.set()
        await narrowing
        assert inside == []
        tasks.append(asyncio.create_task(share("b", leave)))
        await settle()
        assert len([each for each in tasks if each.done()]) == 1
    await settle()
    assert next_alone.entered
    next_alone.leave.set()
    await asyncio.gather(*tasks, next_alone.task)


async def test_who_holds_it_alone_after_that_lets_nobody_in() -> None:
    exclusion = Exclusion()
    async with exclusion.alone():
        await exclusion.narrow({"a"})
    async with exclusion.alone():
        sharer = Holder(exclusion, alone=False)
        await settle()
        assert not sharer.entered
    sharer.leave.set()
    await sharer.task
