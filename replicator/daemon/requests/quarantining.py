"""The requests ``retry`` and ``discard``: rows in quarantine, tried again or given up."""

from collections.abc import Iterable
from dataclasses import dataclass

from replicator.core.tables import Key
from replicator.daemon.pipelines import Pipelines
from replicator.daemon.requests.answers import Answer
from replicator.errors import ExitCode, NotReadyError, UsageError
from replicator.pipeline.pipeline import Pipeline
from replicator.pipeline.repair import repairing
from replicator.postgres.control import control, mailbox
from replicator.postgres.control.mailbox import Command
from replicator.postgres.control.progress import fence
from replicator.postgres.control.quarantine import Entry, read_entries
from replicator.postgres.session.connect import Connection, connection
from replicator.runtime.log import get_logger
from replicator.settings import Settings

log = get_logger("commands")

AT_ONCE = 1_000
SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """How rows leave the quarantine of the active pipeline."""

    settings: Settings
    pipelines: Pipelines

    async def retry(self, command: Command, own: Connection) -> Answer:
        """Derive rows in quarantine anew, as they are in the source now; parents first.

        The arguments are ``entries`` (numbers; None: all that stand) and ``transform`` (None: any).
        """
        pipeline = self._pipeline()
        chosen = await _chosen(pipeline, command)
        sources = {each.name: each.source for each in pipeline.context.plan.transforms}
        for start in range(0, len(chosen), AT_ONCE):
            dirty: dict[str, set[Key]] = {}
            for each in chosen[start : start + AT_ONCE]:
                dirty.setdefault(sources[each.transform], set()).add(each.source_key)
            async with repairing(pipeline) as work:
                await work.derive_again(dirty)
            tried = {"done": min(start + AT_ONCE, len(chosen)), "total": len(chosen), "what": "trying rows again"}
            await mailbox.report_progress(own, command.id, tried)
        left = await _entries(pipeline, [each.id for each in chosen])
        log.info("retried", rows=len(chosen), resolved=len(chosen) - len(left))
        return {
            "tried": len(chosen),
            "resolved": len(chosen) - len(left),
            "failing": [_said(each) for each in left[:SHOWN]],
            "exit_code": ExitCode.FAILED if left else ExitCode.DONE,
        }

    async def discard(self, command: Command, own: Connection) -> Answer:
        """Note that rows need not be in the target as they are: they no longer keep ownership from moving.

        The arguments are ``entries`` and ``transform``, as ``retry`` has them, ``because`` and ``by``.
        """
        pipeline = self._pipeline()
        chosen = [each for each in await _chosen(pipeline, command) if each.discarded_at is None]
        _refuse_missing(command.arguments.get("entries") or [], chosen)
        wanted = [each.id for each in chosen]
        quarantine = pipeline.context.quarantine
        async with pipeline.context.rw_lock.write(), connection(pipeline.ends.target_dsn, "discard") as target:
            async with target.transaction():
                await fence(target, pipeline.context.lease_epoch)
                found = await quarantine.discard(
                    target, wanted, by=str(command.arguments["by"]), because=str(command.arguments["because"])
                )
            await quarantine.load(target)
        if pipeline.ends.target_dsn != self.settings.target:  # the journal that is read is the new database's
            details = {"pipeline": pipeline.direction, **command.arguments, "entries": wanted}
            await control.journal(own, "discarded", details)
        log.info("discarded", rows=len(found))
        return {"discarded": [_said(each) for each in found]}

    def _pipeline(self) -> Pipeline:
        if self.pipelines.active is None:
            raise NotReadyError("The daemon is still starting.", "Try again in a moment.")
        return self.pipelines.active


async def _chosen(pipeline: Pipeline, command: Command) -> list[Entry]:
    numbers, transform = command.arguments.get("entries"), command.arguments.get("transform")
    known = {each.name: each for each in pipeline.context.plan.transforms}
    if transform is not None and transform not in known:
        raise UsageError(f"There is no transform {transform}.", f"There are: {', '.join(known)}.")
    if numbers is not None:
        found = await _entries(pipeline, numbers)
        _refuse_missing(numbers, found)
    else:
        async with connection(pipeline.ends.target_dsn, "quarantine") as target:
            found = await read_entries(target, pipeline=pipeline.direction, transform=transform, state="standing")
    order = {table.name: place for place, table in enumerate(pipeline.context.plan.targets)}
    return sorted(found, key=lambda each: (order[known[each.transform].target.name], each.id))


async def _entries(pipeline: Pipeline, numbers: Iterable[int]) -> list[Entry]:
    async with connection(pipeline.ends.target_dsn, "quarantine") as target:
        return await read_entries(target, pipeline=pipeline.direction, ids=[int(each) for each in numbers])


def _refuse_missing(wanted: Iterable[int], found: Iterable[Entry]) -> None:
    missing = sorted(set(wanted) - {each.id for each in found})
    if missing:
        raise UsageError(
            f"Not in quarantine, or discarded already: {', '.join(map(str, missing))}.",
            "`replicator quarantine list` shows the numbers.",
        )


def _said(entry: Entry) -> dict[str, object]:
    return {"entry": entry.id, "transform": entry.transform, "key": list(entry.source_key), "error": entry.error}
