"""Many share it, or one has it; in the order of asking."""

import asyncio

from replicator.core.rw_lock import ReadWriteLock


class Holder:
    """Takes the lock in a task, and lets it go when told."""

    def __init__(self, rw_lock: ReadWriteLock, *, alone: bool) -> None:
        self.entered = False
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(rw_lock.write() if alone else rw_lock.read()))

    async def _hold(self, manager: object) -> None:
        async with manager:  # type: ignore[attr-defined]
            self.entered = True
            await self.leave.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_sharers_share_and_one_alone_waits_for_them() -> None:
    rw_lock = ReadWriteLock()
    first, second = Holder(rw_lock, alone=False), Holder(rw_lock, alone=False)
    await settle()
    alone = Holder(rw_lock, alone=True)
    late = Holder(rw_lock, alone=False)
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
    rw_lock = ReadWriteLock()
    first = Holder(rw_lock, alone=True)
    await settle()
    sharer, again = Holder(rw_lock, alone=False), Holder(rw_lock, alone=True)
    await settle()
    first.leave.set()
    await settle()
    assert (sharer.entered, again.entered) == (True, False)
    sharer.leave.set()
    again.leave.set()
    await again.task


async def test_who_gives_up_waiting_stands_in_nobodys_way() -> None:
    rw_lock = ReadWriteLock()
    first = Holder(rw_lock, alone=True)
    await settle()
    quitter, next_one = Holder(rw_lock, alone=True), Holder(rw_lock, alone=False)
    await settle()
    quitter.task.cancel()
    first.leave.set()
    await settle()
    assert next_one.entered
    next_one.leave.set()
    await next_one.task


async def test_cancelled_in_the_moment_of_entering() -> None:
    rw_lock = ReadWriteLock()
    first = Holder(rw_lock, alone=True)
    await settle()
    unlucky, next_one = Holder(rw_lock, alone=True), Holder(rw_lock, alone=True)
    await settle()
    first.leave.set()
    await asyncio.sleep(0)  # the first leaves and admits the unlucky one, which has not run yet
    unlucky.task.cancel()
    await settle()
    assert next_one.entered or unlucky.entered
    next_one.leave.set()
    unlucky.leave.set()
    await asyncio.gather(next_one.task, unlucky.task, return_exceptions=True)
    async with asyncio.timeout(5), rw_lock.write():
        pass


async def test_who_holds_it_alone_lets_in_those_whom_it_does_not_concern() -> None:
    rw_lock = ReadWriteLock()
    inside: list[str] = []

    async def share(source: str, leave: asyncio.Event) -> None:
        async with rw_lock.read(source):
            inside.append(source)
            await leave.wait()
            inside.remove(source)

    leave = asyncio.Event()
    async with rw_lock.write():
        tasks = [asyncio.create_task(share(source, leave)) for source in ("a", "b")]
        next_alone = Holder(rw_lock, alone=True)
        await settle()
        assert inside == []
        await rw_lock.narrow({"a"})
        await settle()
        assert inside == ["b"]
        narrowing = asyncio.create_task(rw_lock.narrow({"b"}))
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
    rw_lock = ReadWriteLock()
    async with rw_lock.write():
        await rw_lock.narrow({"a"})
    async with rw_lock.write():
        sharer = Holder(rw_lock, alone=False)
        await settle()
        assert not sharer.entered
    sharer.leave.set()
    await sharer.task
