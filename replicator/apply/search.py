"""Which rows Postgres refuses: a batch that cannot be written is written in ever smaller parts."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from replicator.apply.deleting import FOREIGN_KEY_VIOLATION, MOVE_THEM, Written, is_cleared, keys_to_go
from replicator.apply.effects import Effects
from replicator.apply.order import CLASHES, check_constraints, write_anew, write_plainly
from replicator.apply.outcome import PendingError
from replicator.core.tables import ForeignKey, Key, Name, Table, key_of
from replicator.errors import RowError
from replicator.mapping.derive import TargetRow
from replicator.mapping.plan import Plan, PlannedTransform
from replicator.postgres.control.quarantine import Place
from replicator.postgres.rows.derived import computed_keys
from replicator.postgres.rows.halving import Refused
from replicator.postgres.rows.rearranging import possible_keys, without_rows
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import Connection, translated

ROUNDS = 4
"""How often what was refused is tried again after the rest: what stood in its way may have gone."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A source row whose target rows, or whose deletions, Postgres refuses."""

    transform: PlannedTransform
    source_key: Key
    error: RowError
    spared: frozenset[tuple[Name, Key]] = frozenset()
    """After a TRUNCATE of the source: the row that cannot be deleted, whose key stands for a source key."""

    async def blames_a_source_row(self, connection: Connection, plan: Plan) -> bool:
        """Whether ``source_key`` is one, so that the row can be tried again by it; ``connection`` is the target's."""
        if not self.spared:
            return True
        source = plan.sources[self.transform.source]
        if len(self.source_key) != len(source.key):
            return False
        computed = await computed_keys(connection, self.transform, source, [self.source_key])
        return (self.transform.target.name, computed.get(self.source_key, ())) in self.spared


@dataclass
class _Unit:
    """All that one transform makes of one source row: it is written, or refused, as one."""

    transform: PlannedTransform
    source_key: Key
    upserts: list[tuple[Name, Key]] = field(default_factory=list)
    deletes: list[tuple[Name, Key]] = field(default_factory=list)
    spared: set[tuple[Name, Key]] = field(default_factory=set)


class Search:
    """Writes inside the caller's savepoint ``batch``; what it can write without refusing anything stands."""

    def __init__(self, writer: TargetWriter, plan: Plan, effects: Effects, *, whole: bool) -> None:
        self._writer = writer
        self._plan = plan
        self._effects = effects
        self._whole = whole
        self._units: dict[Place, _Unit] = {}
        self._written: Written = Counter()
        self._there: dict[Name, set[Key]] = {}
        self._counts = {table.name: Refused(table.name) for table in plan.targets}

    async def run(self) -> tuple[Written, list[Refusal]]:
        """Gives what is written, or the refusals.

        :raises DatabaseError: no row explains what Postgres says: it says so without any row, or of every row.
        :raises PendingError: no row of these does, but one that the transaction has written before.
        """
        await self._without_rows()
        await self._leave_out_impossible()
        await self._collect()
        refused = await self._rounds(checked=False)
        refused |= await self._foreign_keys()
        if not refused:
            error = await self._try_constraints()
            if error is None:
                return self._written, []
            await self._execute("ROLLBACK TO SAVEPOINT batch")
            if await self._try_constraints() is not None:
                await self._execute("ROLLBACK TO SAVEPOINT batch")
                raise PendingError(error.problem, error.remedy, error.sqlstate)
            self._written = Counter()
            refused = await self._rounds(checked=True)
        return self._written, [
            Refusal(
                transform=unit.transform,
                source_key=unit.source_key,
                error=refused[place],
                spared=frozenset(unit.spared),
            )
            for place, unit in self._units.items()
            if place in refused
        ]

    async def _without_rows(self) -> None:
        for table in self._plan.targets:
            rows = self._effects.upserts.get(table.name, {})
            if rows or self._effects.deletes.get(table.name) or is_cleared(table, self._effects):
                columns = next((tuple(row.columns) for row in rows.values()), table.key)
                await without_rows(self._writer, table, columns)

    async def _leave_out_impossible(self) -> None:
        """What has a key that the table cannot hold need not be deleted: else that would be refused for ever."""
        for table in self._plan.targets:
            deletes = self._effects.deletes.get(table.name, {})
            possible = set(await possible_keys(self._writer, table, deletes))
            for key in deletes.keys() - possible:
                del deletes[key]

    # ---- units

    async def _collect(self) -> None:
        transforms = {each.name: each for each in self._plan.transforms}
        for table in self._plan.targets:
            for row in self._effects.upserts_of(table.name):
                unit = self._unit(transforms[row.transform], row.source_key)
                unit.upserts.append((table.name, row.key))
        for table in reversed(self._plan.targets):
            deletes = self._effects.deletes.get(table.name, {})
            gone = await keys_to_go(self._writer, table, self._effects)
            if gone:
                self._there[table.name] = set(await self._writer.present(table, gone))
            for key in gone:
                # After a TRUNCATE no source row says what goes: then the row stands for itself.
                transform, source_key = deletes.get(key, (self._plan.writers_of(table.name)[0], ()))
                unit = self._unit(transform, source_key or key)
                unit.deletes.append((table.name, key))
                if not source_key:
                    unit.spared.add((table.name, key))

    def _unit(self, transform: PlannedTransform, source_key: Key) -> _Unit:
        return self._units.setdefault((transform.name, source_key), _Unit(transform, source_key))

    def _only(self, places: Iterable[Place]) -> Effects:
        part = Effects(moves=self._effects.moves, locked=self._effects.locked)
        for place in places:
            unit = self._units[place]
            for name, key in unit.upserts:
                part.upserts.setdefault(name, {})[key] = self._effects.upserts[name][key]
            for name, key in unit.deletes:
                part.deletes.setdefault(name, {})[key] = (unit.transform, unit.source_key)
        return part

    # ---- halves

    async def _rounds(self, *, checked: bool) -> dict[Place, RowError]:
        """Write all units but those that are refused, on top of each other."""
        left = list(self._units)
        found: dict[Place, RowError] = {}
        for _ in range(ROUNDS):
            refused: dict[Place, RowError] = {}
            await self._keep(left, refused, checked=checked)
            found = {place: error for place, error in found.items() if place not in left} | refused
            # What other rows have nothing to do with is not tried again.
            again = [place for place, error in refused.items() if error.sqlstate in CLASHES]
            if not again or len(again) == len(left):
                break
            left = again
        return found

    async def _keep(self, places: list[Place], refused: dict[Place, RowError], *, checked: bool) -> None:
        if not places:
            return
        error = await self._try(self._only(places), checked=checked)
        if error is None:
            for place in places:
                self._counted(place).some_went_in = True
        elif len(places) == 1:
            refused[places[0]] = error
            self._counted(places[0]).count(error)
        else:
            middle = len(places) // 2
            await self._keep(places[:middle], refused, checked=checked)
            await self._keep(places[middle:], refused, checked=checked)

    def _counted(self, place: Place) -> Refused:
        return self._counts[self._units[place].transform.target.name]

    async def _try(self, part: Effects, *, checked: bool) -> RowError | None:
        error: RowError | None = None
        await self._execute("SAVEPOINT part")
        for write in (write_plainly, write_anew):
            try:
                self._written += await write(self._writer, self._plan, part, whole=checked and self._whole)
            except RowError as refused:
                await self._execute("ROLLBACK TO SAVEPOINT part")
                error = error or refused
                if refused.sqlstate not in CLASHES:
                    break
            else:
                error = None
                break
        await self._execute("RELEASE SAVEPOINT part")
        return error

    async def _try_constraints(self) -> RowError | None:
        try:
            await check_constraints(self._writer, whole=self._whole)
        except RowError as error:
            return error
        return None

    async def _execute(self, statement: str) -> None:
        with translated():
            await self._writer.connection.execute(statement.encode())

    # ---- foreign keys that wait for the transaction's end

    async def _foreign_keys(self) -> dict[Place, RowError]:
        refused: dict[Place, RowError] = {}
        for child in self._plan.targets if self._whole else ():
            for foreign_key in child.foreign_keys:
                if foreign_key.deferrable:
                    await self._bereaved(child, foreign_key, refused)
                    await self._orphans(child, foreign_key, refused)
        return refused

    async def _bereaved(self, child: Table, foreign_key: ForeignKey, refused: dict[Place, RowError]) -> None:
        """Deleted parents that a child still refers to."""
        parent, owners = self._deleted(foreign_key.parent)
        if parent is None or not owners:
            return
        for key in await self._writer.children_of(foreign_key, child, parent, owners, deleted=True):
            refused[owners[key]] = RowError(
                f"A row of {child.name} still refers to the deleted row of {parent.name} ({foreign_key.name}).",
                MOVE_THEM,
                FOREIGN_KEY_VIOLATION,
            )

    async def _orphans(self, child: Table, foreign_key: ForeignKey, refused: dict[Place, RowError]) -> None:
        """Written children without a parent, but for those whose parent the batch deletes: then it is to stay."""
        rows = self._effects.upserts.get(child.name, {})
        parent, owners = self._deleted(foreign_key.parent)
        for key in await self._writer.orphans(foreign_key, child, rows) if rows else ():
            if parent is None or _parent_key(rows[key], foreign_key, parent) not in owners:
                refused[rows[key].transform, rows[key].source_key] = RowError(
                    f"The row of {child.name} refers to a row of {foreign_key.parent} that is not there "
                    f"({foreign_key.name}).",
                    sqlstate=FOREIGN_KEY_VIOLATION,
                )

    def _deleted(self, name: Name) -> tuple[Table | None, dict[Key, Place]]:
        parent = next((table for table in self._plan.targets if table.name == name), None)
        deletes = ((place, unit) for place, unit in self._units.items() if unit.deletes)
        # What was not there has taken nothing from a child.
        there = self._there.get(name, set())
        return parent, {
            key: place for place, unit in deletes for of, key in unit.deletes if of == name and key in there
        }


def _parent_key(row: TargetRow, foreign_key: ForeignKey, parent: Table) -> Key | None:
    values = dict(zip(foreign_key.parent_columns, map(row.columns.get, foreign_key.columns), strict=True))
    with suppress(KeyError, ValueError):  # it refers to other columns, or by NULL
        return key_of(values, parent.key, parent.by_name)
    return None
