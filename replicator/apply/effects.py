"""What a batch comes to on the target: rows to write, keys to delete, memory to change, failures to keep."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from replicator.core.tables import Key, Name, Row, fingerprint
from replicator.errors import TransformError
from replicator.mapping.derive import TargetRow
from replicator.mapping.plan import PlannedTransform
from replicator.postgres.control.quarantine import Failure, Place
from replicator.postgres.rows.derived import Derived

Pair = tuple[Key, Key]
"""Source key and target key."""


class TakenError(TransformError):
    """Another source row of the batch gives the same target row."""


@dataclass
class Locked:
    """The rows that were there, and are locked, by table: of the others, none is overwritten."""

    rows: dict[Name, set[Key]] = field(default_factory=dict)
    appeared: bool = False
    """Since then, a row was there that should not have been; it was not written."""

    def of(self, table: Name) -> set[Key]:
        """Those of one table."""
        return self.rows.get(table, set())


@dataclass
class Effects:
    """Collected per batch. A key that is both deleted and written in one batch is written."""

    upserts: dict[Name, dict[Key, TargetRow]] = field(default_factory=dict)
    deletes: dict[Name, dict[Key, tuple[PlannedTransform, Key]]] = field(default_factory=dict)
    cleared: list[PlannedTransform] = field(default_factory=list)
    remembered: dict[str, list[Pair]] = field(default_factory=dict)
    forgotten: dict[str, list[Pair]] = field(default_factory=dict)
    copied_away: list[tuple[PlannedTransform, Pair]] = field(default_factory=list)
    """Those of ``forgotten`` that the opposite pipeline has caused."""
    moves: dict[str, Mapping[Key, Key]] = field(default_factory=dict)
    """By source, the key that a row had before, by the one that it has now."""
    spared: set[tuple[Name, Key]] = field(default_factory=set)
    """Rows that a TRUNCATE of the source would delete, but cannot."""
    failures: list[Failure] = field(default_factory=list)
    skipped: AbstractSet[Place] = frozenset()
    """Transforms and source keys that were not derived: they are refused."""
    good: list[tuple[str, Key]] = field(default_factory=list)
    rows: dict[str, dict[Key, Row | None]] = field(default_factory=dict)
    """The source rows that all of this comes from, by source."""
    locked: "Locked | None" = None
    """Of the target's rows that are to be written, those that were there; None: nobody else can write any."""

    def row_changed(
        self,
        transform: PlannedTransform,
        key: Key,
        given: Derived,
        produced: set[Key] | None,
        there: AbstractSet[Key] = frozenset(),
    ) -> None:
        """The source row with this key gives this now.

        :param produced: the target keys that it had produced, for a transform that remembers them.
        :param there: target keys that may be there for it, though nothing remembers them.
        """
        try:
            if given.error is not None:
                raise given.error
            if produced is None:
                self._computed(transform, key, given)
            else:
                self._remembered(transform, key, given.rows, produced, there)
        except TransformError as error:
            self.failures.append(self.failure(transform, key, str(error)))
        else:
            self.good.append((transform.name, key))

    def copied(self, transform: PlannedTransform, key: Key, given: Derived, produced: set[Key]) -> None:
        """The opposite pipeline has written this row from what the target holds: only the memory changes."""
        if given.error is not None:
            self.failures.append(self.failure(transform, key, str(given.error)))
        else:
            now = {each.key for each in given.rows}
            self._memory(transform, key, now, produced)
            self.copied_away += [(transform, (key, each)) for each in produced - now]
            self.good.append((transform.name, key))

    @property
    def left_out(self) -> set[Place]:
        """What goes into quarantine, or is there already: nothing is said of what it gives."""
        return {*self.skipped, *(each.place for each in self.failures)}

    def failure(self, transform: PlannedTransform, key: Key, error: str) -> Failure:
        """What is to be kept of a refused row."""
        row = self.rows.get(transform.source, {}).get(key)
        return Failure(
            transform=transform.name, source=transform.source, source_key=key, error=error,
            fingerprint=fingerprint(row),
        )  # fmt: skip

    def _computed(self, transform: PlannedTransform, key: Key, given: Derived) -> None:
        if len(given.rows) > 1:
            raise TransformError(
                f"The transform {transform.name} has a key= and returned {len(given.rows)} rows for {list(key)}.",
                "Leave key= out where one source row makes several.",
            )
        if given.gone is not None:
            self._delete(transform, key, given.gone)
        self._upsert(transform, given.rows)

    def _remembered(
        self,
        transform: PlannedTransform,
        key: Key,
        rows: list[TargetRow],
        produced: set[Key],
        there: AbstractSet[Key],
    ) -> None:
        now = {row.key for row in rows}
        try:
            self._upsert(transform, rows)
        except TakenError:
            # Remembered, so that it is written once the other row lets go of the key.
            self.remembered.setdefault(transform.name, []).extend((key, each) for each in now - produced)
            raise
        # Nothing else ever deletes them: the row's later versions do not give them. mutation: no-longer-produced
        for gone in (produced | there) - now:
            self._delete(transform, key, gone)
        self._memory(transform, key, now, produced)

    def _memory(self, transform: PlannedTransform, key: Key, now: set[Key], produced: set[Key]) -> None:
        self.forgotten.setdefault(transform.name, []).extend((key, each) for each in produced - now)
        self.remembered.setdefault(transform.name, []).extend((key, each) for each in now - produced)

    def _upsert(self, transform: PlannedTransform, rows: list[TargetRow]) -> None:
        """All of them or, when one has a key that is taken, none."""
        taken = self.upserts.setdefault(transform.target.name, {})
        found: dict[Key, TargetRow] = {}
        for row in rows:
            other = taken.get(row.key) or found.get(row.key)
            if other is not None:
                raise TakenError(
                    f"Two source rows produce the same row {list(row.key)} of {transform.target.name}: "
                    f"{other.transform} for {list(other.source_key)}, and {row.transform} for {list(row.source_key)}.",
                    "Make the target key depend on both, or filter one of them out.",
                )
            found[row.key] = row
        taken.update(found)

    def _delete(self, transform: PlannedTransform, source_key: Key, key: Key) -> None:
        self.deletes.setdefault(transform.target.name, {})[key] = (transform, source_key)

    def deletes_of(self, target: Name) -> list[Key]:
        """The keys to delete that are not written again."""
        written = self.upserts.get(target, {})
        return [key for key in self.deletes.get(target, {}) if key not in written]

    def moved(self, target: Name) -> dict[Key, Key]:
        """The old key of each target row that has got another, by the new one: the row of one source row, then as now.

        The source row may have got another key, too.
        """
        gone: dict[Place, list[Key]] = {}
        for key in self.deletes_of(target):
            transform, source_key = self.deletes[target][key]
            gone.setdefault((transform.name, source_key), []).append(key)
        if not gone:
            return {}
        come: dict[Place, list[Key]] = {}
        for row in self.upserts_of(target):
            come.setdefault((row.transform, row.source_key), []).append(row.key)
        sources = {each.name: each.source for each, _ in self.deletes[target].values()}
        left = {source: set(moves.values()) for source, moves in self.moves.items()}
        found: dict[Key, Key] = {}
        for (name, source_key), keys in come.items():
            source = sources.get(name, "")
            before = self.moves.get(source, {}).get(source_key)
            if before is None and source_key not in left.get(source, ()):
                before = source_key
            old = gone.get((name, before), []) if before is not None else []
            if len(keys) == len(old) == 1:
                found[keys[0]] = old[0]
        return found

    def upserts_of(self, target: Name) -> Iterable[TargetRow]:
        """The rows to write."""
        return self.upserts.get(target, {}).values()
