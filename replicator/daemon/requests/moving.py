"""The requests ``cutover`` and ``rollback``."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from replicator.daemon.current_phase import CurrentPhase
from replicator.daemon.requests.answers import Answer, Gates, GateShutError
from replicator.daemon.requests.notices import Progress
from replicator.daemon.switchovers import Switchovers
from replicator.errors import CutoverError, NotReadyError, ReplicatorError
from replicator.migration import NO_WAY_BACK, Migration
from replicator.postgres.control import mailbox
from replicator.postgres.control.mailbox import Command
from replicator.postgres.session.connect import Connection
from replicator.settings import Settings
from replicator.switchover.phases import CLOSING, COMPLETION, CUTOVER, OPENING, ROLLBACK, Phase, Transition
from replicator.switchover.way_back import way_back

LOOK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Moving:
    """The moves of ownership that an operator asks for."""

    settings: Settings
    migration: Migration
    phase: CurrentPhase
    gates: Gates
    switchovers: Switchovers

    async def cutover(self, command: Command, own: Connection) -> Answer:
        """Move ownership to the new schema; with ``rolling`` open it too, with ``complete`` end that."""
        if self.phase.now == CUTOVER.after:
            raise NotReadyError("The new schema owns the data already.", "There is nothing left to cut over.")
        _see_that_nobody_counts_on_a_rollback(self.migration, command)
        move = CUTOVER
        if self.phase.now == Phase.ROLLING or command.arguments.get("complete"):
            if not command.arguments.get("complete"):
                raise NotReadyError(
                    "Both schemas take writes already.",
                    "When no old version of the application runs any more: `replicator cutover --complete`.",
                )
            if self.phase.now != Phase.ROLLING:
                raise NotReadyError(
                    "Only the old schema takes writes: there is nothing to complete.",
                    "Use `replicator cutover`, or `replicator cutover --rolling` first.",
                )
            move = COMPLETION
        elif command.arguments.get("rolling"):
            move = OPENING
        return await self._move(command, own, move)

    async def rollback(self, command: Command, own: Connection) -> Answer:
        """Move ownership back to the old schema."""
        gates = await self.gates.described()
        found = way_back(self.phase.now, declared=self.migration.way_back, gates=gates, differing=0)
        if not found.possible:
            raise NotReadyError(found.problem, found.remedy)
        return await self._move(command, own, CLOSING if self.phase.now == Phase.ROLLING else ROLLBACK)

    async def _move(self, command: Command, own: Connection, move: Transition) -> Answer:
        """Wait for the time and for the gates if that is wanted, then move ownership.

        Arguments: ``wait``, ``timeout`` in seconds, ``dry_run``, ``at``, an ISO time, ``search_path_of``, a role, and
        ``strategy``, schema or rename. ``timeout`` counts from ``at`` to just before the commit.
        """
        await _wait_for_time(command, own)
        progress = Progress(self.settings, command, own)
        timeout = command.arguments.get("timeout")
        try:
            async with asyncio.timeout(timeout) as bound, progress.watched(bound):
                await self._wait_for_gates(progress, move, wait=bool(command.arguments.get("wait")))
                result = await self.switchovers.run(
                    move,
                    progress.report,
                    dry_run=bool(command.arguments.get("dry_run")),
                    search_path_of=command.arguments.get("search_path_of"),
                    strategy=command.arguments.get("strategy", "schema"),
                    bound=bound,
                )
        except TimeoutError:
            raise _late(timeout, move, progress) from None
        return {
            "epoch": result.epoch,
            "attempts": result.attempts,
            "write_pause_seconds": result.write_pause_seconds,
            "dry_run": result.dry_run,
            "rolling": move.opens_both and not result.dry_run,
            "way_back": self.migration.way_back,
            "dependents": list(result.dependents),
            "retyped": list(result.retyped),
            "consequences": result.consequences.as_json() if result.consequences else None,
        }

    async def _wait_for_gates(self, progress: Progress, move: Transition, *, wait: bool) -> None:
        while True:
            gates = await self.gates.current()
            names = [gate.name for gate in gates if not gate.ok]
            if not names and self.phase.now == move.before:
                return
            if not wait:
                raise shut(names or [f"the phase is {self.phase.now}"])
            await progress.report_gates(gates, "waiting for the gates")
            await asyncio.sleep(LOOK_SECONDS)


def _see_that_nobody_counts_on_a_rollback(migration: Migration, command: Command) -> None:
    said = bool(command.arguments.get("no_way_back"))
    if not migration.way_back and not said and not command.arguments.get("dry_run"):
        raise NotReadyError(
            f"{NO_WAY_BACK}.",
            "Say so with --no-way-back, or write reverse transforms and start the daemon again.",
        )
    if migration.way_back and said:
        raise NotReadyError(f"The migration {migration.name} has a way back.", "Leave --no-way-back out.")
    if not migration.way_back and command.arguments.get("rolling"):
        raise NotReadyError(
            "The migration has no way back: the old schema would not get what is written to the new one.",
            "Cut over without --rolling.",
        )


def _late(timeout: float | None, move: Transition, progress: Progress) -> ReplicatorError:
    if progress.shut:
        return shut(progress.shut)
    return CutoverError(
        f"The {move.name} did not come to its commit within {timeout:g} s (--timeout). It was at: {progress}. "
        "Nothing has moved.",
        "Wait until what is in the way has ended, or end it, or allow more time; then try again.",
    )


def shut(names: Sequence[str]) -> GateShutError:
    """The error for these gates, or whatever else is not as it must be."""
    return GateShutError(f"Not every gate is open: {', '.join(names)}.", "Wait (--wait), or do what the gates say.")


async def _wait_for_time(command: Command, own: Connection) -> None:
    if not command.arguments.get("at"):
        return
    moment = datetime.fromisoformat(command.arguments["at"])
    while (left := (moment - datetime.now(UTC)).total_seconds()) > 0:
        await mailbox.report_progress(own, command.id, {"step": f"waiting until {moment:%Y-%m-%d %H:%M:%S} UTC"})
        await asyncio.sleep(min(left, LOOK_SECONDS))
