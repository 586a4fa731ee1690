"""The request ``cutover``."""

import asyncio
from typing import TYPE_CHECKING

from replicator.commands.answers import Answer, current_gates, describe_gate
from replicator.cutover import CutoverResult
from replicator.errors import NotReadyError
from replicator.phases import Phase
from replicator.postgres import control
from replicator.postgres.connect import Connection
from replicator.postgres.control import Command

if TYPE_CHECKING:
    from replicator.session import Session

GATES_SECONDS = 0.5


async def cutover(session: "Session", command: Command, own: Connection) -> Answer:
    """Wait for the gates if that is wanted, then move ownership."""
    await _wait_for_gates(session, command, own)

    async def report(step: str) -> None:
        await control.report_progress(own, command.id, {"step": step})

    result: CutoverResult = await session.cut_over(report)
    return {
        "epoch": result.epoch,
        "attempts": result.attempts,
        "write_pause_seconds": result.write_pause_seconds,
    }


async def _wait_for_gates(session: "Session", command: Command, own: Connection) -> None:
    if session.phase == Phase.SOAK:
        raise NotReadyError("The new schema owns the data already.", "There is nothing left to cut over.")
    timeout = command.arguments.get("timeout")
    deadline = None if timeout is None else asyncio.get_running_loop().time() + float(timeout)
    while True:
        gates = await current_gates(session, own)
        shut = [gate for gate in gates if not gate.ok]
        if not shut and session.phase == Phase.FOLLOW:
            return
        late = deadline is not None and asyncio.get_running_loop().time() > deadline
        if not command.arguments.get("wait") or late:
            names = ", ".join(gate.name for gate in shut) or f"the phase is {session.phase}"
            raise NotReadyError(f"Not every gate is open: {names}.", "Wait (--wait), or do what the gates say.")
        await control.report_progress(
            own, command.id, {"step": "waiting for the gates", "gates": [describe_gate(each) for each in gates]}
        )
        await asyncio.sleep(GATES_SECONDS)
