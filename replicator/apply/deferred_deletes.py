"""Deletions that would take children along wait for the transaction's end: it may delete these itself."""

from replicator.apply.deleting import acting_children, keeps_children
from replicator.apply.effects import Effects
from replicator.core.tables import Key, Name, Table
from replicator.mapping.plan import Plan, PlannedTransform

Deletions = dict[Name, dict[Key, tuple[PlannedTransform, Key]]]


class DeferredDeletes:
    """Those of one transaction."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._deletions: Deletions = {}

    def take(self, effects: Effects, *, whole: bool) -> None:
        """Take such deletions out of the effects; at the end (``whole``), put them all in."""
        for table in self._plan.targets:
            if acting_children(self._plan, table):
                written = effects.upserts.get(table.name, {})
                postponed = self._deletions.setdefault(table.name, {})
                moved = set() if whole else self._moved(effects, table)
                deletes = effects.deletes.pop(table.name, {})
                postponed.update({key: whose for key, whose in deletes.items() if key not in moved})
                effects.deletes[table.name] = {key: deletes[key] for key in moved}
                for key in written:  # it stays, also if another source row has given it until now
                    postponed.pop(key, None)
                if whole:
                    effects.deletes[table.name] = dict(postponed)

    def _moved(self, effects: Effects, table: Table) -> set[Key]:
        """Rows that get another key, and keep their children: what goes there is the key alone."""
        return set(effects.moved(table.name).values()) if keeps_children(self._plan, table) else set()

    def copy(self) -> Deletions:
        """Those there are now, for ``restore``."""
        return {name: dict(deletions) for name, deletions in self._deletions.items()}

    def restore(self, copied: Deletions) -> None:
        """Be again as it was when ``copy`` returned this."""
        self._deletions = {name: dict(deletions) for name, deletions in copied.items()}

    def withdraw(self, skip: set[tuple[str, Key]]) -> None:
        """Drop those of these transforms and source keys."""
        for name, postponed in self._deletions.items():
            self._deletions[name] = {
                key: (transform, source_key)
                for key, (transform, source_key) in postponed.items()
                if (transform.name, source_key) not in skip
            }
