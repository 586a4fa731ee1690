"""What requests have in common: the form of an answer, and the gates in it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from replicator.daemon.current_phase import CurrentPhase
from replicator.daemon.pipelines import Pipelines
from replicator.daemon.report import Reporter
from replicator.errors import NotReadyError
from replicator.postgres.control.mailbox import Command
from replicator.postgres.session.connect import Connection, connection
from replicator.settings import Settings
from replicator.switchover.gates import Gate, look_at_gates

Answer = dict[str, object]

Handler = Callable[[Command, Connection], Awaitable[Answer]]
"""Does what a request asks, and returns the answer; its connection leads to the target, in autocommit mode."""


class GateShutError(NotReadyError):
    """A gate is not open; the answer shows them all."""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The gates of the active pipeline, looked at when they are asked for."""

    settings: Settings
    phase: CurrentPhase
    pipelines: Pipelines
    reporter: Reporter

    async def current(self) -> list[Gate]:
        """The gates as they are now; none while no pipeline runs."""
        active, opposite = self.pipelines.active, self.pipelines.opposite
        if active is None:
            return []
        async with connection(active.ends.target_dsn, "gates") as target:
            trouble = self.reporter.trouble
            return await look_at_gates(active, self.phase.now, self.settings, target, opposite, trouble=trouble)

    async def described(self) -> list[dict[str, object]]:
        """The same, for an answer."""
        return [describe_gate(each) for each in await self.current()]


def describe_gate(gate: Gate) -> dict[str, object]:
    """One gate, for an answer."""
    return {"name": gate.name, "ok": gate.ok, "detail": gate.detail}
