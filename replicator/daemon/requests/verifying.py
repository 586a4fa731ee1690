"""The request ``verify``."""

import asyncio
from dataclasses import dataclass

from replicator.daemon.current_phase import CurrentPhase
from replicator.daemon.pipelines import Pipelines
from replicator.daemon.requests.answers import Answer
from replicator.errors import ExitCode, NotReadyError
from replicator.pipeline.repair import reconcile, repair
from replicator.postgres.control import mailbox
from replicator.postgres.control.mailbox import Command
from replicator.postgres.session.connect import Connection
from replicator.runtime.log import get_logger
from replicator.switchover.phases import Phase
from replicator.verify import advice, sentence, summary

log = get_logger("commands")

LOOK_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Verification:
    """A whole pass on demand; the one that goes round stands still meanwhile."""

    phase: CurrentPhase
    pipelines: Pipelines

    async def verify(self, command: Command, own: Connection) -> Answer:
        """Compare every row; with ``repair``, derive anew what differs, and what is in quarantine."""
        pipeline = self.pipelines.active
        if pipeline is None or self.phase.now not in (Phase.FOLLOW, Phase.SOAK):
            raise NotReadyError(
                f"There is nothing to verify in the phase {self.phase.now}.",
                "Wait until the backfill is done, and only one of the schemas takes writes.",
            )
        wanted, emptying = bool(command.arguments.get("repair")), bool(command.arguments.get("allow_emptying"))
        await self.pipelines.stop_verifying()
        try:
            await pipeline.verifier.open()
            await reconcile(pipeline, emptying=emptying)
            follow = asyncio.create_task(self._follow_pass(command, own))
            try:
                result = await pipeline.verifier.full_pass()
                repaired = 0
                if wanted and (result.divergences or pipeline.context.quarantined):
                    repaired = await repair(pipeline, result.divergences, "verify --repair", emptying=emptying)
                    result = await pipeline.verifier.full_pass()
            finally:
                follow.cancel()
                await asyncio.gather(follow, return_exceptions=True)
        finally:
            self.pipelines.start_verifying()
        tables = summary(result.divergences, list(result.rows))
        told = {"advice": sentence(advice(result.divergences, repaired=repaired > 0))} if result.divergences else {}
        return {
            "tables": [{**table, "rows": result.rows[str(table["table"])]} for table in tables],
            "repaired": repaired,
            "quarantined": len(pipeline.context.quarantine.standing),
            "discarded": len(pipeline.context.quarantine.discarded),
            "clean": result.clean,
            **told,
            "exit_code": ExitCode.DONE if result.clean else ExitCode.FAILED,
        }

    async def _follow_pass(self, command: Command, own: Connection) -> None:
        while True:
            verifier = self.pipelines.active.verifier if self.pipelines.active else None
            if verifier is not None and verifier.running:
                progress = {"done": verifier.done, "total": verifier.total, "what": "comparing rows"}
                await mailbox.report_progress(own, command.id, progress)
            await asyncio.sleep(LOOK_SECONDS)
