"""Rows of the target that were discarded when it was the source: the other side lacks them, or holds them otherwise."""

from contextlib import aclosing

from replicator.core.tables import UNREADABLE, Key, Table, fingerprint
from replicator.mapping.plan import Source
from replicator.postgres.control.quarantine import discarded_rows
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.groups import key_groups
from replicator.postgres.session.connect import Connection, connection
from replicator.verify.comparison import Divergence


class DiscardedRows:
    """Old rows, after the cutover; after a rollback the new tables have to become what the old ones give.

    Only those of tables and their copies: of a query's key nobody knows which rows it came from.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rows: dict[tuple[str, Key], str] = {}

    async def load(self, source: Connection) -> None:
        """Read what the forward pipeline has discarded: its target is the source here."""
        if self._context.direction == "forward":
            return
        declared = self._context.plan.migration.of("forward")
        tables = {each.source_name: each.table for each in declared}
        found = await discarded_rows(source, "forward")
        self._rows = {(tables[name], key): mark for (name, key), mark in found.items() if tables.get(name)}

    async def without(self, divergences: list[Divergence]) -> list[Divergence]:
        """The divergences, without those of rows that are still as they were when they were discarded."""
        suspects = [each for each in divergences if (each.target, each.key) in self._rows]
        # Of one that could not be read, it is not known how it was; that the new tables give none says enough.
        extra = {(each.target, each.key) for each in suspects if each.kind == "extra"}
        if not suspects:
            return divergences
        excused: set[tuple[str, Key]] = set()
        async with connection(self._context.target_dsn, "discarded", text=True) as target:
            for table in self._context.plan.targets:
                name = table.declared
                keys = {each.key for each in suspects if each.target == name}
                async with aclosing(key_groups(target, _as_source(table), keys)) as groups:
                    async for rows, _ in groups:
                        there = {key: row for key, row in rows.items() if row is not None}
                        excused |= {
                            (name, key)
                            for key, row in there.items()
                            if fingerprint(row) == self._rows[name, key]
                            or (self._rows[name, key] == UNREADABLE and (name, key) in extra)
                        }
        return [each for each in divergences if (each.target, each.key) not in excused]


def _as_source(table: Table) -> Source:
    return Source(name=table.declared, table=table, query=None, columns=table.columns, key=table.key, transforms=())
