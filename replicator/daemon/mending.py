"""While both schemas take writes: what may have changed past the log is mended at once, or no move could follow."""

import asyncio

from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.control.rederivations import Rederivation, note_rederivations
from replicator.postgres.rows.conflict_policy import LastWriteWins
from replicator.postgres.session.connect import connection
from replicator.runtime.log import get_logger
from replicator.switchover.bidirectional import OPPOSITE, Bidirectional
from replicator.verify import Divergence

log = get_logger("mending")

LOOK_SECONDS = 1.0
PAUSE_SECONDS = 5.0
"""Between two passes, where the first has found something."""


async def mend(both: Bidirectional) -> None:
    """Compare all rows whenever something has changed past the log, either way. Never returns."""
    while True:
        for direction in OPPOSITE:
            pipeline = both.pipelines[direction]
            if pipeline.context.unseen and not pipeline.context.shadow:
                await _mend(both, pipeline)
        await asyncio.sleep(LOOK_SECONDS)


async def _mend(both: Bidirectional, pipeline: Pipeline) -> None:
    """Until a pass finds nothing but what the application has written last on the other side."""
    await pipeline.verifier.open()
    while True:
        noticed = pipeline.monitor.definitions.noticed()
        for each in both.pipelines.values():
            await each.catch_up()  # else what is on its way would look as if it had been lost
        found = await both.not_theirs(pipeline, (await pipeline.verifier.full_pass()).divergences)
        if await _ground_is_wrong(both):
            return
        if not found:
            await pipeline.monitor.definitions.settle(noticed)
            return
        await _derive_again(both, pipeline, found)
        log.info("mending what had changed past the log", direction=pipeline.direction, rows=len(found))
        await asyncio.sleep(PAUSE_SECONDS)


async def _ground_is_wrong(both: Bidirectional) -> bool:
    """Whether a table may be read as other than it is: a child's rows with its parent's, some rows not at all.

    What would be mended by it would go to the other side, and from there back into the table. So it waits.
    """
    return any([await pipeline.monitor.look_at_ground() for pipeline in both.pipelines.values()])


async def _derive_again(both: Bidirectional, pipeline: Pipeline, found: list[Divergence]) -> None:
    """As if it had been written before both sides took writes: all that the application has written since wins.

    It is only noted here: whoever takes both sides' turns does it, and can be ended without leaving it half-done.
    """
    policy, extra = pipeline.context.policy, [each for each in found if each.source is None]
    if not isinstance(policy, LastWriteWins):
        return
    entries = [
        Rederivation(
            pipeline=pipeline.direction, what="source", name=each.source, key=each.source_key, dated=policy.since
        )
        for each in found
        if each.source is not None and each.source_key is not None
    ]
    async with connection(pipeline.context.target_dsn, "mending") as target:
        await note_rederivations(target, entries)
    for each in extra:
        both.leftovers.setdefault(pipeline.direction, {}).setdefault(each.target, set()).add(each.key)
