"""The stages before a cutover, each entered when the one before it is done, and the verification that follows."""

from collections.abc import Awaitable, Callable
from functools import partial

from replicator.migration import Migration
from replicator.pipeline.pipeline import Pipeline
from replicator.pipeline.repair import compare, reconcile, repair_unseen
from replicator.runbook import schema
from replicator.runtime.log import get_logger
from replicator.settings import Settings
from replicator.switchover.phases import Phase

log = get_logger("session")


async def until_follow(
    settings: Settings,
    migration: Migration,
    pipeline: Pipeline,
    phase: Phase,
    enter: Callable[[Phase], Awaitable[None]],
) -> None:
    """Copy the rows and build what they are to have, from wherever an earlier daemon has come to.

    :param enter: stores the next phase.
    """
    if phase == Phase.BACKFILL:
        await pipeline.backfill()
        await repair_unseen(pipeline)
        await enter(phase := Phase.BUILD)
    if phase == Phase.BUILD:
        await schema.build(
            settings, migration, ["indexes", "constraints"], lambda line: log.info("building", what=line), pipeline
        )
        await schema.analyze(settings, pipeline.context.plan.targets)
        await enter(Phase.FOLLOW)


async def verify(pipeline: Pipeline) -> None:
    """Compare and mend round after round, once the stream counts. Never returns."""
    await pipeline.wait_started()
    await pipeline.verifier.open()
    await reconcile(pipeline)
    await pipeline.verify(partial(compare, pipeline))
