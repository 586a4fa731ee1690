"""What requests have in common: the form of an answer, and the gates in it."""

from typing import TYPE_CHECKING, Any

from replicator.errors import NotReadyError
from replicator.postgres.session.connect import connection
from replicator.switchover.gates import Gate, look_at_gates

if TYPE_CHECKING:
    from replicator.daemon.session import Session

Answer = dict[str, Any]


class GateShutError(NotReadyError):
    """A gate is not open; the answer shows them all."""


async def current_gates(session: "Session") -> list[Gate]:
    """The gates as they are now; none while no pipeline runs."""
    pipeline = session.pipeline
    if pipeline is None:
        return []
    async with connection(pipeline.ends.target_dsn, "gates") as target:
        trouble = session.reporter.trouble
        return await look_at_gates(pipeline, session.phase, session.settings, target, session.opposite, trouble=trouble)


async def describe_gates(session: "Session") -> list[dict[str, object]]:
    """The same, for an answer."""
    return [describe_gate(each) for each in await current_gates(session)]


def describe_gate(gate: Gate) -> dict[str, object]:
    """One gate, for an answer."""
    return {"name": gate.name, "ok": gate.ok, "detail": gate.detail}
