"""What a pipeline's writer works with, as long as its connections last."""

from replicator.apply.deriving import Deriver
from replicator.apply.heirs import Heirs
from replicator.apply.later import Later
from replicator.apply.reading import Reading
from replicator.apply.relations import Relations
from replicator.core.lsn import LSN
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import Connection, connect, translated
from replicator.postgres.wire.slots import current_position


class Tools:
    """Connections to both sides, what reads and derives through them, and what is remembered between transactions."""

    def __init__(
        self, context: Context, relations: Relations, later: Later, own_reader: Connection, connection: Connection,
        ahead: LSN,
    ) -> None:  # fmt: skip
        self.context = context
        self.relations = relations
        self.later = later
        self.connection = connection
        self.ahead = ahead
        """Rows of the target may be as new as this: they were read again, by this daemon or the one before it."""
        self.reader = own_reader
        self.reading = Reading(context, own_reader, connection)
        self.deriver = Deriver(context, connection)
        self.heirs = Heirs(context, connection)
        self.writer = TargetWriter(connection, context.plan.targets)
        self._own_reader = own_reader

    @classmethod
    async def open(cls, context: Context, relations: Relations, later: Later) -> "Tools":
        """Connect to both sides and prepare the staging tables."""
        reader = await connect(context.source_dsn, f"{context.direction} reread", text=True)
        try:
            connection = await connect(context.target_dsn, f"{context.direction} apply")
        except BaseException:
            await reader.close()
            raise
        made = None
        try:
            made = cls(context, relations, later, reader, connection, await current_position(reader))
            await made.writer.prepare()
            for join in ("hashjoin", "mergejoin"):  # staged rows are few and have no statistics: by the target's key
                await made.execute(f"SET enable_{join} = off")
        except BaseException:
            await reader.close()
            await connection.close()
            raise
        return made

    async def close(self) -> None:
        """Give the connections back; an open transaction is rolled back by that."""
        self.context.quarantine.undo(self.connection)
        self.context.quarantine.end(self.connection)
        for each in (self._own_reader, self.connection):
            await each.close()

    def read_through(self, connection: Connection | None) -> None:
        """Read the source on another connection, which gives text; with None, on its own again."""
        self.reader = connection or self._own_reader
        self.reading.read_through(self.reader)

    async def execute(self, statement: str) -> None:
        """Run a statement on the target."""
        with translated():
            await self.connection.execute(statement.encode())
