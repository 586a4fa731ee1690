"""The request ``finalize``."""

from dataclasses import dataclass

from replicator.daemon.current_phase import CurrentPhase
from replicator.daemon.pipelines import Pipelines
from replicator.daemon.requests.answers import Answer
from replicator.migration import Migration
from replicator.postgres.control import mailbox
from replicator.postgres.control.mailbox import Command
from replicator.postgres.session.connect import Connection
from replicator.runbook.finish import check_soaked, finalize_now
from replicator.settings import Settings
from replicator.switchover.phases import Phase


@dataclass(frozen=True, kw_only=True)
class Finalization:
    """Ends the soak: the way back is given up, and the daemon ends."""

    settings: Settings
    migration: Migration
    phase: CurrentPhase
    pipelines: Pipelines

    async def finalize(self, command: Command, own: Connection) -> Answer:
        """Argument: ``now``, before the end of the soak."""
        await check_soaked(self.settings, now=bool(command.arguments.get("now")))

        async def report(step: str) -> None:
            await mailbox.report_progress(own, command.id, {"step": step})

        await report("stopping the way back")
        if self.phase.now != Phase.FINALIZED:
            await self.phase.enter(Phase.FINALIZED)  # before that, what goes wrong leaves all as it is
        await self.pipelines.stop_verifying()
        await self.pipelines.close("reverse")
        return (await finalize_now(self.settings, self.migration, report)).as_answer()
