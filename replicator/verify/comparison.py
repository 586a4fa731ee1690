"""Compares what some source keys give with what the target holds at that moment."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from replicator.core.tables import Key, Name, Row, Table
from replicator.mapping.derive import TargetRow
from replicator.mapping.plan import PlannedTransform, Source
from replicator.postgres.control.key_map import remembered
from replicator.postgres.rows.comparing import compare
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.derived import Derived as Given
from replicator.postgres.rows.derived import computed_keys, derive_all
from replicator.postgres.rows.groups import key_groups
from replicator.postgres.rows.rearranging import possible_keys
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import Connection, connect, translated


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """One target row that is not what the transforms give."""

    target: str
    kind: str
    """missing, extra or different."""
    key: Key
    source: str | None
    """None for an extra row that nothing gives."""
    source_key: Key | None
    columns: tuple[str, ...] = ()
    note: str = ""
    broken: bool = False
    """The transform failed: ``key`` is the source's, for no target key is known."""
    owners: tuple[tuple[str, Key], ...] = ()
    """Transform and source key of each of several source rows that give it: no repair can make both of them true."""

    @property
    def lingers(self) -> bool:
        """It has the target key of a source row that gives nothing: another source row may give it."""
        return self.kind == "extra" and self.source is not None


@dataclass
class Derived:
    """What source rows give; keys in quarantine, discarded ones too, give nothing, and are not missed."""

    rows: dict[Name, list[TargetRow]] = field(default_factory=dict)
    absent: dict[Name, list[tuple[Key, Key]]] = field(default_factory=dict)
    """Target key and source key, of computed keys that must not be there."""
    excused: dict[Name, list[tuple[Key, str, Key]]] = field(default_factory=dict)
    """Target key, transform and source key of rows in quarantine."""
    broken: list[Divergence] = field(default_factory=list)


class Comparison:
    """Two connections of its own: one reads the source, one the target."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def open(self) -> None:
        """Connect to both sides."""
        direction = self.context.direction
        self._own_reader = await connect(self.context.source_dsn, f"{direction} verify read", text=True)
        self.reader = self._own_reader
        self.target = await connect(self.context.target_dsn, f"{direction} verify compare")
        self._writer = TargetWriter(self.target, self.context.plan.targets)
        await self._writer.prepare()

    async def close(self) -> None:
        """Give the connections back."""
        for connection in (getattr(self, "_own_reader", None), getattr(self, "target", None)):
            if connection is not None:
                await connection.close()

    def read_through(self, connection: Connection | None) -> None:
        """Read the source on another connection, which gives text; with None, on its own again."""
        self.reader = connection or self._own_reader

    async def parts(self, source: Source, keys: Iterable[Key]) -> AsyncGenerator[tuple[set[Key], Derived]]:
        """What the source rows with these keys give, in parts of bounded size, each with its keys; at least one part.

        Inside a read point of the caller's. To be closed when it is left early.
        """
        async with aclosing(key_groups(self.reader, source, keys)) as groups:
            async for rows, _ in groups:
                yield set(rows), await self.derive(source, rows)

    async def derive(self, source: Source, rows: Mapping[Key, Row | None]) -> Derived:
        """Run the source's transforms on rows; None stands for a row that is gone."""
        derived = Derived()
        for transform in source.transforms:
            known: dict[Key, set[Key]] = {}
            if transform.remembers and any((transform.name, key) in self.context.quarantine for key in rows):
                known = await remembered(self.target, self.context.direction, transform.name, rows)
            held = {key for key in rows if (transform.name, key) in self.context.quarantine}
            if held and transform.key is not None and not transform.remembers:
                for key, target in (await computed_keys(self.target, transform, source, held)).items():
                    known.setdefault(key, set()).add(target)
            for key in held:
                excused = derived.excused.setdefault(transform.target.name, [])
                excused.extend((each, transform.name, key) for each in known.get(key, set()))
            wanted = {key: row for key, row in rows.items() if key not in held}
            for key, given in (await derive_all(self.target, transform, source, wanted, self.context.given)).items():
                self._sort_in(derived, transform, source, key, given)
        return derived

    async def compare(self, source: Source, derived: Derived) -> list[Divergence]:
        """Compare with the target as it is now, in one snapshot of it.

        What it finds may be only on its way. A row of a key that no row gives *lingers*, unless one of these gives it.
        """
        divergences = list(derived.broken)
        with translated():
            async with self.target.transaction():
                await self.target.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                for table in self.context.plan.targets:
                    self._writer.transaction_begins()
                    divergences += await self._differing(source, table, derived.rows.get(table.name, []))
                    given = {row.key for row in derived.rows.get(table.name, [])}
                    absent = [each for each in derived.absent.get(table.name, []) if each[0] not in given]
                    divergences += await self._lingering(source, table, absent)
        return divergences

    async def present(self, table: Table, keys: Iterable[Key]) -> set[Key]:
        """Which of these rows the target holds now."""
        with translated():
            async with self.target.transaction():
                self._writer.transaction_begins()
                possible = await possible_keys(self._writer, table, keys)
                return set(await self._writer.present(table, possible))

    async def _differing(self, source: Source, table: Table, rows: list[TargetRow]) -> list[Divergence]:
        if not rows:
            return []
        return [
            Divergence(
                target=table.declared,
                kind=each.kind,
                key=each.key,
                source=source.name,
                source_key=each.source_key,
                columns=each.columns,
                note=each.note,
            )
            for each in await compare(self._writer, table, rows)
        ]

    async def _lingering(self, source: Source, table: Table, absent: list[tuple[Key, Key]]) -> list[Divergence]:
        if not absent:
            return []
        owners = dict(absent)
        return [
            Divergence(target=table.declared, kind="extra", key=key, source=source.name, source_key=owners.get(key))
            for key in await self._writer.present(table, await possible_keys(self._writer, table, owners))
        ]

    def _sort_in(self, derived: Derived, transform: PlannedTransform, source: Source, key: Key, given: Given) -> None:
        if given.error is not None:
            derived.broken.append(
                Divergence(
                    target=transform.target.declared,
                    kind="different",
                    key=key,
                    source=source.name,
                    source_key=key,
                    note=str(given.error),
                    broken=True,
                )
            )
            return
        if given.gone is not None:
            derived.absent.setdefault(transform.target.name, []).append((given.gone, key))
        derived.rows.setdefault(transform.target.name, []).extend(given.rows)
