"""Makes the target again what the transforms give: where it diverges, and after a rollback."""

from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace

from replicator.apply.target_rows import delete_rows, keep_rows, rows_up_to
from replicator.apply.work import Work
from replicator.core.tables import Key
from replicator.errors import NotReadyError
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.control.control import journal
from replicator.postgres.control.progress import write_reconciled
from replicator.postgres.session.connect import connection
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.log import get_logger
from replicator.verify import Divergence, PassResult

log = get_logger("repair")

FEW = 20
"""So many rows may be deleted even where that is most of the table."""


class WouldEmptyError(NotReadyError):
    """A repair would delete all or most rows of a table: perhaps the source's rows cannot be seen."""

    def __init__(self, target: str, rows: int, left: int) -> None:
        kept = "no row" if left == 0 else f"only {left:,}"
        super().__init__(
            f"The repair would delete {rows:,} of the rows of {target}, because no source row produces them, and leave "
            f"{kept}. Nothing was repaired.",
            "See whether the source still has its rows, and the daemon's role can read them all (row security, a view, "
            "a query). If these rows are to go: `replicator verify --repair --allow-emptying`.",
        )


@asynccontextmanager
async def repairing(pipeline: Pipeline) -> AsyncIterator[Work]:
    """A transaction on the target, while nothing else writes there; it is committed at the end.

    :raises NotReadyError: while both schemas take writes: what is repaired there may be what is on its way.
    """
    if pipeline.context.policy.both_write:
        raise NotReadyError(
            "Nothing is repaired while both schemas take writes.",
            "First complete the cutover (`replicator cutover --complete`), or roll it back.",
        )
    applier = pipeline.new_applier()
    try:
        await applier.open()
        transaction = applier.transaction(committed=Failpoint.REDO_COMMITTED)
        async with pipeline.context.rw_lock.write(), transaction as work:
            yield work
            await reach(Failpoint.REDO_WRITTEN)
    finally:
        await applier.close()


async def repair(
    pipeline: Pipeline,
    divergences: list[Divergence],
    why: str,
    only: Collection[str] | None = None,
    *,
    emptying: bool = False,
) -> int:
    """Derive anew what source rows give, those in quarantine too; delete what nothing gives. Gives how many rows.

    :param only: the sources whose rows in quarantine are tried again; None means all.
    :param emptying: whether all or most rows of a table may be deleted.
    :raises WouldEmptyError: more would be deleted than may be; nothing is repaired.

    Target rows that are overwritten or deleted by that are copied to ``_replicator.kept`` before, in the same
    transaction. Rows that several source rows give are let alone: whichever is written, the others are lost.
    """
    mendable = [each for each in divergences if not each.owners]
    dirty: dict[str, set[Key]] = {}
    extra: dict[str, list[Key]] = {}
    wrong: dict[str, list[Key]] = {}
    for each in mendable:
        if each.source is not None and each.source_key is not None:
            dirty.setdefault(each.source, set()).add(each.source_key)
        elif each.kind != "missing":
            extra.setdefault(each.target, []).append(each.key)
        if each.kind != "missing" and not each.broken:
            wrong.setdefault(each.target, []).append(each.key)
    sources = {
        each.name: each.source for each in pipeline.context.plan.transforms if only is None or each.source in only
    }
    refused = {(name, key) for name, key in pipeline.context.quarantined if name in sources}
    for name, key in refused:
        dirty.setdefault(sources[name], set()).add(key)
    # A row that nothing gave may be given since: what has changed meanwhile is derived anew after the deletion.
    changed = {each.source for each in pipeline.context.plan.transforms if each.target.declared in extra}
    async with repairing(pipeline) as work:
        for source in changed:
            dirty.setdefault(source, set()).update(pipeline.context.dirty_keys.waiting_keys(source))
        for target, keys in wrong.items():
            await keep_rows(work, target, keys, why)
        deleted = await delete_rows(work, extra)
        stay = sum(map(len, extra.values())) - deleted.total()
        await work.derive_again(dirty)
        if not emptying:
            await _refuse_emptying(work, deleted)
    repaired = len(mendable) - stay + len(refused - pipeline.context.quarantined)
    log.info("repaired", rows=repaired, beyond_repair=len(divergences) - len(mendable) + stay)
    return repaired


async def _refuse_emptying(work: Work, deleted: Counter[str]) -> None:
    """A source whose rows cannot be seen looks like one whose rows are gone. Raises WouldEmptyError.

    :param deleted: how many rows of each target were deleted because nothing gives them; what reading source rows
        again has deleted is added.
    """
    for (target, step), rows in work.outcome.written.items():
        if step == "delete":
            deleted[target] += rows
    for target, rows in sorted(deleted.items()):
        left = await rows_up_to(work, target, rows + 1)
        if rows and (left == 0 or (left < rows and rows > FEW)):
            raise WouldEmptyError(target, rows, left)


async def compare(pipeline: Pipeline, pause: float = 0.0) -> PassResult:
    """A full pass; what has changed past the log, as noticed before the pass, is repaired and compared again."""
    while True:
        # What was noticed may be gone since: then this is the last look that could tell, and the pass is after it.
        await pipeline.look_at_definitions()
        noticed = pipeline.monitor.definitions.noticed()
        result = await pipeline.verifier.full_pass(pause)
        if noticed:
            await _repair_unseen(pipeline, result.divergences, noticed.definitions)
            await pipeline.monitor.definitions.settle(noticed)
        if result.clean or not noticed:
            return result


async def _repair_unseen(pipeline: Pipeline, divergences: list[Divergence], tables: Collection[str]) -> None:
    """Repair what hangs on these source tables: the rows that they give, and those that nothing gives."""
    plan = pipeline.context.plan
    sources = {
        name
        for name in plan.sources
        if name in tables or any(each.source == name for table in tables for each in plan.dependencies.get(table, ()))
    }
    targets = {each.target.declared for each in plan.transforms if each.source in sources}
    concerning = [
        each
        for each in divergences
        if each.source in sources or (each.source is None and each.target in targets)
    ]  # fmt: skip
    details: dict[str, object] = {"tables": sorted(tables)}
    # That many rows have gone is no surprise where a partition was detached or dropped.
    emptying = bool(pipeline.monitor.definitions.parted() & set(tables))
    try:
        details["rows"] = await repair(pipeline, concerning, "changed past the log", sources, emptying=emptying)
    except WouldEmptyError as error:  # what diverges keeps the gate shut, and is there for the operator to decide
        log.error("not repaired", error=error.problem, remedy=error.remedy)  # noqa: TRY400  no fault of the program's
        details |= {"rows": 0, "refused": error.problem}
    async with connection(pipeline.ends.target_dsn, "repair") as target:
        await journal(target, "changed past the log", details)


async def repair_unseen(pipeline: Pipeline) -> None:
    """Before constraints are made that would not hold: repair what has changed past the log since it was copied."""
    await pipeline.look_at_definitions()
    if pipeline.context.unseen:
        await pipeline.verifier.open()
        await compare(pipeline)


async def reconcile(pipeline: Pipeline, *, emptying: bool = False) -> None:
    """After a rollback: new rows become what the old ones give; what the old schema cannot hold is kept aside.

    :param emptying: as ``repair`` takes it; where it is refused, this remains to be done, and the gate shut.
    """
    if pipeline.progress.reconciled:
        return
    found = (await pipeline.verifier.full_pass()).divergences
    try:
        if found:
            await repair(pipeline, found, "rollback", emptying=emptying)
    except WouldEmptyError as error:
        log.error("not repaired", error=error.problem, remedy=error.remedy)  # noqa: TRY400  no fault of the program's
        return
    await reach(Failpoint.RECONCILED)
    async with connection(pipeline.ends.target_dsn, "reconcile") as target:
        await journal(target, "reconciled", {"rows": dict(Counter(each.target for each in found))})
        await write_reconciled(target, pipeline.direction)
    pipeline.progress = replace(pipeline.progress, reconciled=True)
    if found:
        log.warning("new rows held what the old schema cannot; they are kept in _replicator.kept", rows=len(found))
