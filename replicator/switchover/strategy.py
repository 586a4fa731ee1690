"""In what one kind of switchover differs from another; the procedure, and its order, is the same for all."""

from collections.abc import Sequence

from replicator.core.tables import Name
from replicator.postgres.locking.locks import WRITERS, lock_tables
from replicator.postgres.session.connect import Connection
from replicator.preflight.hanging import Strategy
from replicator.switchover.request import Attempt, SwitchoverRequest
from replicator.switchover.transfer import transfer
from replicator.verify import Divergence


class SwitchoverStrategy:
    """What ``Cutover`` asks for at the steps that are not alike in all; by default each is as in a plain switchover.

    It has no say in the order of steps, the transaction, its commit, or what becomes of a lost reply.
    """

    name: Strategy = "schema"
    holder_gives_text: bool = False
    """The holder's connection returns values as text: a pipeline reads its source through it."""

    @property
    def retyped(self) -> Sequence[str]:
        """Columns that prepared statements will find of another type."""
        return ()

    async def begin(self) -> None:
        """Before an attempt connects; what is taken here is returned in ``end``."""

    async def hold(self, attempt: Attempt, tables: Sequence[Name]) -> None:
        """Keep the writers waiting. Raises LockedOutError when the lock does not come in time."""
        await lock_tables(attempt.holder, tables, WRITERS, attempt.hold_seconds, attempt.observer)

    def looks_through(self, attempt: Attempt) -> Connection:
        """The connection to the target that the final checks use."""
        return attempt.target

    async def diverging(self, request: SwitchoverRequest) -> list[Divergence]:
        """Compare, with the writers held, what waits to be compared; returns what differs."""
        return await request.pipeline.verifier.final_check()

    async def checked(self, attempt: Attempt) -> None:
        """After the final checks. Raises NotReadyError when this kind needs more than these."""

    async def move(self, attempt: Attempt) -> None:
        """Write guards and state row. Raises NotReadyError or LockedOutError."""
        await transfer(attempt, attempt.request.plan.migration.new)

    async def before_rollback(self, request: SwitchoverRequest) -> None:
        """An attempt is given up, or was only rehearsed: before its transaction ends."""

    def end(self, request: SwitchoverRequest) -> None:
        """Likewise, when that is done."""


class PlainStrategy(SwitchoverStrategy):
    """The writers are held, and the application is told the other schema: nothing else."""
