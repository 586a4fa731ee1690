"""A switchover is tried until its lock comes in time: whoever is in the way keeps writers waiting only for a moment."""

import asyncio

from replicator.core.epochs import OwnershipEpoch
from replicator.errors import CutoverError, ReplicatorError, RetryableError
from replicator.postgres.control.control import journal
from replicator.postgres.locking.locks import gives_way, send_vacuum_away
from replicator.postgres.session.connect import connection
from replicator.runtime.log import get_logger
from replicator.switchover.cutover import Cutover
from replicator.switchover.held_up import HeldUp
from replicator.switchover.phases import CutoverResult
from replicator.switchover.request import SwitchoverRequest

log = get_logger("cutover")

ATTEMPTS = 30
BACKOFF_SECONDS = 0.5
BACKOFF_MOST = 10.0


async def try_until_locked(cutover: Cutover, held_up: HeldUp) -> CutoverResult:
    """Try until the lock comes in time, up to a limit.

    :param held_up: learns who was in the way.
    :raises CutoverError: with the step that failed or took the time; the writers went on.
    :raises NotReadyError: the final check found something that keeps ownership from moving.
    """
    request = cutover.request
    epoch = await cutover.before()
    failure = ""
    for number in range(1, ATTEMPTS + 1):
        await request.pipeline.look_at_ground()
        locked = f"{len(cutover.held)} tables{failure and '; ' + failure}"
        await request.report(f"attempt {number}: waiting for the lock on {locked}")
        await request.pipeline.verifier.settle_down()  # what is compared now need not be while writers wait
        await cutover.drain_opposite()
        try:
            pause = await cutover.attempt(epoch)
        except RetryableError as error:
            failure = error.problem
            held_up.note(error)
            await _give_up(cutover, number, error)
        except ReplicatorError as error:
            await _journal(request, "attempt", attempt=number, **_failed(cutover), error=error.kind)
            raise
        else:
            return await _done(cutover, epoch, number, pause)
        await asyncio.sleep(min(BACKOFF_MOST, BACKOFF_SECONDS * 2 ** min(number - 1, 5)))
    raise CutoverError(
        f"The tables could not be locked in {ATTEMPTS} attempts. {failure}",
        "Wait until it has ended, or end it, then try again.",
    )


async def _give_up(cutover: Cutover, number: int, error: RetryableError) -> None:
    """Of one attempt: the next one comes after a while, for the writers queued behind this one."""
    log.info("an attempt was given up; the writers went on", attempt=number, why=error.problem)
    await _journal(cutover.request, "attempt", attempt=number, **_failed(cutover), why=error.problem)
    await cutover.request.report(f"given up for a moment: {error.problem}")
    if gives_way(error):
        await _send_vacuum_away(cutover.request)


async def _send_vacuum_away(request: SwitchoverRequest) -> None:
    ends, move = request.pipeline.ends, request.move
    for dsn, tables in ((ends.source_dsn, move.held), (ends.target_dsn, move.opens)):
        async with connection(dsn, "cutover vacuum") as asking:
            await send_vacuum_away(asking, request.tables[tables])


async def _done(cutover: Cutover, epoch: OwnershipEpoch, number: int, pause: float) -> CutoverResult:
    request, foreseen = cutover.request, cutover.foreseen
    done = "dry run" if request.dry_run else request.move.name
    await _journal(request, done, epoch=epoch, attempt=number, pause=pause, steps=cutover.steps.told)
    return CutoverResult(
        epoch=epoch,
        attempts=number,
        write_pause_seconds=pause,
        dry_run=request.dry_run,
        dependents=foreseen.users,
        consequences=foreseen.consequences,
        retyped=tuple(cutover.strategy.retyped),
    )


def _failed(cutover: Cutover) -> dict[str, object]:
    return {"failed": cutover.step, "steps": cutover.steps.told}


async def _journal(request: SwitchoverRequest, event: str, **details: object) -> None:
    async with connection(request.settings.target, "journal") as target:
        await journal(target, event, {"of": request.move.name, **details})
