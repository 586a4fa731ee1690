"""While both schemas take writes: who wrote a row last wins, by commit time. The loser's change is not written.

Rows are locked before they are compared, so nothing changes between the look and the write. What both sides wrote at
the same time is derived again by the winner's pipeline, so that things made of several rows agree again on both sides.
"""

import contextlib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import datetime
from typing import Literal

from replicator.apply.dates import Dates
from replicator.apply.effects import Effects, Locked
from replicator.apply.undisputed import Undisputed
from replicator.core.tables import Key, Name, Row, Table
from replicator.errors import TransformError
from replicator.mapping.derive import TargetRow
from replicator.mapping.plan import PlannedTransform
from replicator.migration import Direction
from replicator.postgres.control.rederivations import Rederivation, note_rederivations
from replicator.postgres.rows.conflict_policy import LastWriteWins
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.derived import derive_rows
from replicator.postgres.rows.rearranging import possible_keys
from replicator.postgres.rows.source import parse_row
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.rows.versions import Version, deleted_rows, lock_rows
from replicator.postgres.session.connect import Connection

WHY_KEPT = "conflict"

Mode = Literal["following", "repeating", "confirming"]
"""Why rows are written: the stream brought changes; what collided is derived again; the other side's answer to that."""


class Conflicts(Undisputed):
    """Decides for the effects of one batch, inside the caller's savepoint."""

    def __init__(
        self,
        context: Context,
        policy: LastWriteWins,
        writer: TargetWriter,
        reader: Connection,
        dates: Dates,
        mode: Mode,
    ) -> None:
        self._context = context
        self._policy = policy
        self._writer = writer
        self._reader = reader
        """Leads to where the opposite pipeline writes: its SQL transforms run there."""
        self.dates: Dates | None = dates
        self._dates = dates
        self._mode = mode
        self._confirming = mode == "confirming"
        self._opposite: Direction = "reverse" if context.direction == "forward" else "forward"
        self._wins_ties = self._confirming or context.direction == "reverse"
        self._known_through = policy.known_through()  # before anything is derived
        self._transforms = {each.name: each for each in context.plan.transforms}
        self._locked = Locked()
        self._cleared: dict[tuple[Name, Key], tuple[str, datetime]] = {}
        self._lost: dict[tuple[Name, Key], Rederivation] = {}
        self._claiming: dict[Name, dict[Key, TargetRow]] = {}
        self._contested: dict[tuple[str, Key], Rederivation] = {}
        self._gone: dict[tuple[Name, Key], Rederivation] = {}
        self._too_late: set[tuple[str, Key]] = set()

    async def look(self, effects: Effects) -> None:
        """Lock the rows that are to be written or deleted; take out of the effects what has lost."""
        self._contested.clear()
        self._gone.clear()
        self._too_late.clear()
        effects.locked = self._locked = Locked()
        await self._spell_out(effects)
        for table in self._context.plan.targets:
            keys = effects.upserts.get(table.name, {}).keys() | effects.deletes.get(table.name, {}).keys()
            if keys:
                await self._look_at(table, keys, effects)

    async def overtaken(self, effects: Effects) -> bool:
        """After the write: whether rows appeared meanwhile, or the application has deleted rows later than they came.

        If so, the caller rolls back to its savepoint, looks and writes again.
        """
        if self._locked.appeared:
            return True
        lost = False
        for table in self._context.plan.targets:
            present = self._locked.of(table.name)
            fresh = [key for key in effects.upserts.get(table.name, {}) if key not in present]
            if fresh:
                deleted = await deleted_rows(self._writer.connection, table, self._writer.stage(table), fresh)
                for key, at in deleted.items():
                    if self._loses(table, key, at, effects):
                        lost = True
                    elif not self._confirming:
                        self._contest(table, key, at, effects)
                await self._note_claims(table)
        return lost

    async def store(self, effects: Effects, overwritten: AbstractSet[tuple[str, Key]]) -> int:
        """Note what must be derived again; gives how many changes have lost.

        :param overwritten: source keys whose change had lost before it came here.
        """
        await self._keep_what_is_there(effects)
        confirmations = [*self._gone.values(), *self._confirmations(effects)]
        entries = [*self._lost.values(), *self._contested.values(), *confirmations]
        await note_rederivations(self._writer.connection, entries)
        return len(self._lost) + len((overwritten | self._too_late) - {each.lost for each in self._lost.values()})

    def _confirmations(self, effects: Effects) -> Iterator[Rederivation]:
        """What is derived again decides for all that hangs on it: the opposite side is to be what these rows give.

        Of an answer to that only what it deletes is answered in turn: so this ends.
        """
        for table in self._context.plan.targets if self._mode != "following" else ():
            upserts, deletes = effects.upserts.get(table.name, {}), effects.deletes.get(table.name, {})
            present = self._locked.of(table.name)
            gone = present & (deletes.keys() - upserts.keys())
            for key in gone if self._mode == "confirming" else upserts.keys() | deletes.keys():
                _, _, date = self._change(table, key, effects)
                if date is not None:
                    yield self._confirmation(table, key, effects, date)

    def _confirmation(self, table: Table, key: Key, effects: Effects, dated: datetime) -> Rederivation:
        source, source_key, _ = self._change(table, key, effects)
        gone = key not in effects.upserts.get(table.name, {})
        return Rederivation(
            pipeline=self._opposite,
            what="row",
            name=table.name.table,
            key=key,
            dated=dated,
            lost=(source, source_key) if gone and source_key else None,
            confirms=True,
        )

    async def _keep_what_is_there(self, effects: Effects) -> None:
        """What the source gives no longer, nor anything else, but is still there: it must be possible to delete it.

        The opposite pipeline has taken it away on its side, while we wrote it, or the application did, on ours.
        """
        for transform in {each.name: each for each, _ in effects.copied_away}.values():
            pairs = {pair for each, pair in effects.copied_away if each.name == transform.name}
            given = {key for _, key in effects.remembered.get(transform.name, [])}
            there = set(await self._writer.present(transform.target, {key for _, key in pairs} - given))
            kept = {pair for pair in pairs if pair[1] in there}
            forgotten = effects.forgotten.get(transform.name, [])
            effects.forgotten[transform.name] = [pair for pair in forgotten if pair not in kept]

    async def _spell_out(self, effects: Effects) -> None:
        """A TRUNCATE of the source deletes row by row here: rows written since stay."""
        for transform in effects.cleared:
            name, at = transform.target.name, self._dates.of_all(transform.source)
            written = effects.upserts.get(name, {})
            for key in await self._writer.all_keys(transform.target):
                if at is not None and key not in written and (name, key) not in effects.spared:
                    effects.deletes.setdefault(name, {}).setdefault(key, (transform, ()))
                    self._cleared[name, key] = (transform.source, at)
        effects.cleared.clear()

    async def _look_at(self, table: Table, wanted: AbstractSet[Key], effects: Effects) -> None:
        # A key that the table cannot hold is refused as a row's, when it is written: here it would be nobody's error.
        keys = set(await possible_keys(self._writer, table, wanted))
        found = await lock_rows(self._writer.connection, table, self._writer.stage(table), keys)
        self._locked.rows[table.name] = set(found)
        if self._mode != "confirming":
            await self._look_at_gone(table, effects.deletes.get(table.name, {}).keys() & (keys - found.keys()), effects)
        overwritten = [key for key, version in found.items() if self._overwrites(table, key, version, effects)]
        await self._note_claims(table)
        if overwritten:
            await self._writer.keep(table, overwritten, WHY_KEPT)

    async def _look_at_gone(self, table: Table, keys: AbstractSet[Key], effects: Effects) -> None:
        """What goes, and is gone: the application has deleted it here, and may have added to it there meanwhile."""
        gone = keys - effects.upserts.get(table.name, {}).keys()
        if gone:
            noted = await deleted_rows(self._writer.connection, table, self._writer.stage(table), gone)
            for key, at in noted.items():
                source, source_key, date = self._change(table, key, effects)
                if date is None or self._context.plan.sources[source].table is not None:
                    continue
                if at > date:
                    self._too_late.add((source, source_key))
                    self._gone[table.name, key] = self._redo(table, key, at, (source, source_key))
                else:
                    self._gone[table.name, key] = self._confirmation(table, key, effects, date)

    def _overwrites(self, table: Table, key: Key, version: Version, effects: Effects) -> bool:
        """Whether a change wins against one of the application's that the opposite pipeline may not have applied."""
        at = self._policy.written_by_the_application(version)
        if at is None or (version.rewritten and self._wait_to_know(table, key, at, effects)):
            return False
        if not (version.rewritten and self._mode != "following") and self._loses(table, key, at, effects):
            return False
        if self._confirming:
            return key not in effects.upserts.get(table.name, {})
        return self._contest(table, key, at, effects)

    def _wait_to_know(self, table: Table, key: Key, at: datetime, effects: Effects) -> bool:
        """Take a change to a row that was written anew since out of the effects, for later: who wrote last is unknown.

        The rewrite's date would win against every change that is on its way, also where the application has not
        touched the row for years. Once the opposite pipeline has applied what was written up to the rewrite, the source
        has the winner: it is derived again, and written over the row, whatever its date.
        """
        source, source_key, date = self._change(table, key, effects)
        if self._mode != "following" or date is None or date > at or not source_key:
            return False
        self._take_out(table, key, effects)
        self._contested[source, source_key] = self._derived_again(source, source_key, date)
        return True

    def _contest(self, table: Table, key: Key, at: datetime, effects: Effects) -> bool:
        """What won must be derived again if the opposite pipeline may not have applied yet what it won against."""
        source, source_key, date = self._change(table, key, effects)
        if at <= self._known_through:
            return False
        if source_key and date:
            self._contested[source, source_key] = self._derived_again(source, source_key, date)
        return True

    def _derived_again(self, source: str, source_key: Key, date: datetime) -> Rederivation:
        return Rederivation(
            pipeline=self._context.direction, what="source", name=source, key=source_key, dated=date, waits=True
        )

    def _loses(self, table: Table, key: Key, at: datetime, effects: Effects) -> bool:
        """Take a change out of the effects if the application has written, or deleted, its target later."""
        source, source_key, date = self._change(table, key, effects)
        if date is not None and (date > at or (date == at and self._wins_ties)):
            return False
        row = effects.upserts.get(table.name, {}).get(key)
        if row is not None:
            self._claiming.setdefault(table.name, {})[key] = row
        self._take_out(table, key, effects)
        lost = (source, source_key) if source_key else None
        self._lost[table.name, key] = self._redo(table, key, at, lost)
        return True

    def _take_out(self, table: Table, key: Key, effects: Effects) -> None:
        self._still_produced(table, key, effects)
        effects.upserts.get(table.name, {}).pop(key, None)
        effects.deletes.get(table.name, {}).pop(key, None)

    def _redo(self, table: Table, key: Key, at: datetime, lost: tuple[str, Key] | None) -> Rederivation:
        return Rederivation(pipeline=self._opposite, what="row", name=table.name.table, key=key, dated=at, lost=lost)

    async def _note_claims(self, table: Table) -> None:
        """What rows that are not written would have given on the other side: that is there, and must be found."""
        rows = self._claiming.pop(table.name, {})
        opposite = self._context.opposite
        source = None if opposite is None else opposite.table_source(table.name.table)
        if not rows or source is None:
            return
        values: dict[Key, Row] = {}
        for key, row in rows.items():
            # What is not as the table would show it is refused there, or another spelling is known.
            with contextlib.suppress(ValueError, ArithmeticError):
                texts = [row.columns.get(column.name) for column in source.columns]
                values[key] = parse_row(source.columns, texts)
        for transform in source.transforms if values else ():
            if transform.remembers:
                for key, given in (await derive_rows(self._reader, transform, source, values)).items():
                    lost = self._lost[table.name, key]
                    if not isinstance(given, TransformError):
                        claims = tuple((transform.name, each.key) for each in given)
                        self._lost[table.name, key] = replace(lost, claims=(*lost.claims, *claims))

    def _still_produced(self, table: Table, key: Key, effects: Effects) -> None:
        """A deletion that is not done must be possible later."""
        if key not in effects.upserts.get(table.name, {}) and (table.name, key) not in self._cleared:
            transform, source_key = effects.deletes[table.name][key]
            pairs = effects.forgotten.get(transform.name, [])
            effects.forgotten[transform.name] = [pair for pair in pairs if pair != (source_key, key)]
            if transform.remembers:
                effects.remembered.setdefault(transform.name, []).append((source_key, key))

    def _change(self, table: Table, key: Key, effects: Effects) -> tuple[str, Key, datetime | None]:
        """The source and its key that a target row is written or deleted for, and when that changed."""
        row = effects.upserts.get(table.name, {}).get(key)
        if row is not None:
            transform: PlannedTransform = self._transforms[row.transform]
            source_key = row.source_key
        elif (table.name, key) in self._cleared:
            source, at = self._cleared[table.name, key]
            return source, (), at
        else:
            transform, source_key = effects.deletes[table.name][key]
        return transform.source, source_key, self._dates.of(transform.source, source_key)
