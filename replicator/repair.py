"""Makes the target again what the transforms give: where it diverges, and after a rollback."""

from collections import Counter
from dataclasses import replace

from replicator.log import get_logger
from replicator.pipeline import Pipeline
from replicator.postgres.connect import connection
from replicator.postgres.control import journal
from replicator.postgres.progress import write_reconciled
from replicator.tables import Key
from replicator.verify import Divergence

log = get_logger("repair")


async def repair(pipeline: Pipeline, divergences: list[Divergence], why: str) -> int:
    """Derive anew what source rows give, those in quarantine too; delete what nothing gives. Gives how many rows.

    Target rows that are overwritten or deleted by that are copied to ``replicator.kept`` before, in the same
    transaction.
    """
    dirty: dict[str, set[Key]] = {}
    extra: dict[str, list[Key]] = {}
    wrong: dict[str, list[Key]] = {}
    for each in divergences:
        if each.source is not None and each.source_key is not None:
            dirty.setdefault(each.source, set()).add(each.source_key)
        else:
            extra.setdefault(each.target, []).append(each.key)
        if each.kind != "missing" and not each.broken:
            wrong.setdefault(each.target, []).append(each.key)
    sources = {each.name: each.source for each in pipeline.context.plan.transforms}
    refused = {(name, key) for name, key in pipeline.context.quarantined if name in sources}
    for name, key in refused:
        dirty.setdefault(sources[name], set()).add(key)
    async with pipeline.repairing() as applier:
        for target, keys in wrong.items():
            await applier.keep_rows(target, keys, why)
        for target, keys in extra.items():
            await applier.delete_rows(target, keys)
        await applier.redo(dirty)
    repaired = len(divergences) + len(refused - pipeline.context.quarantined)
    log.info("repaired", rows=repaired)
    return repaired


async def reconcile(pipeline: Pipeline) -> None:
    """After a rollback: new rows become what the old ones give; what the old schema cannot hold is kept aside."""
    if pipeline.progress.reconciled:
        return
    found = (await pipeline.verifier.full_pass()).divergences
    if found:
        await repair(pipeline, found, "rollback")
    async with connection(pipeline.ends.target_dsn, "reconcile") as target:
        await journal(target, "reconciled", {"rows": dict(Counter(each.target for each in found))})
        await write_reconciled(target, pipeline.direction)
    pipeline.progress = replace(pipeline.progress, reconciled=True)
    if found:
        log.warning("new rows held what the old schema cannot; they are kept in replicator.kept", rows=len(found))
