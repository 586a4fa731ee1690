"""The request ``finalize``."""

from typing import TYPE_CHECKING

from replicator.daemon.requests.answers import Answer
from replicator.postgres.control import mailbox
from replicator.postgres.control.mailbox import Command
from replicator.postgres.session.connect import Connection
from replicator.runbook.finish import check_soaked, finalize_now
from replicator.switchover.phases import Phase

if TYPE_CHECKING:
    from replicator.daemon.session import Session


async def finalize(session: "Session", command: Command, own: Connection) -> Answer:
    """End the soak: the way back is given up, and the daemon ends."""
    await check_soaked(session.settings, now=bool(command.arguments.get("now")))

    async def report(step: str) -> None:
        await mailbox.report_progress(own, command.id, {"step": step})

    await report("stopping the way back")
    if session.phase != Phase.FINALIZED:
        await session.enter_phase(Phase.FINALIZED)  # before that, what goes wrong leaves all as it is
    await session.stop_verifying()
    await session.close_pipeline("reverse")
    return (await finalize_now(session.settings, session.migration, report)).as_answer()
