"""The request ``verify``."""

import asyncio
from typing import TYPE_CHECKING

from replicator.daemon.requests.answers import Answer
from replicator.errors import ExitCode, NotReadyError
from replicator.pipeline.repair import reconcile, repair
from replicator.postgres.control import mailbox
from replicator.postgres.control.mailbox import Command
from replicator.postgres.session.connect import Connection
from replicator.runtime.log import get_logger
from replicator.switchover.phases import Phase
from replicator.verify import advice, sentence, summary

if TYPE_CHECKING:
    from replicator.daemon.session import Session

log = get_logger("commands")

LOOK_SECONDS = 0.2


async def verify(session: "Session", command: Command, own: Connection) -> Answer:
    """Compare every row; with ``repair``, derive anew what differs, and what is in quarantine."""
    pipeline = session.pipeline
    if pipeline is None or session.phase not in (Phase.FOLLOW, Phase.SOAK):
        raise NotReadyError(
            f"There is nothing to verify in the phase {session.phase}.",
            "Wait until the backfill is done, and only one of the schemas takes writes.",
        )
    wanted, emptying = bool(command.arguments.get("repair")), bool(command.arguments.get("allow_emptying"))
    await session.stop_verifying()
    try:
        await pipeline.verifier.open()
        await reconcile(pipeline, emptying=emptying)
        follow = asyncio.create_task(_follow_pass(session, command, own))
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
        session.start_verifying()
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


async def _follow_pass(session: "Session", command: Command, own: Connection) -> None:
    while True:
        verifier = session.pipeline.verifier if session.pipeline else None
        if verifier is not None and verifier.running:
            progress = {"done": verifier.done, "total": verifier.total, "what": "comparing rows"}
            await mailbox.report_progress(own, command.id, progress)
        await asyncio.sleep(LOOK_SECONDS)
