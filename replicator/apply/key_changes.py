"""Which rows have got another key in a transaction: what is read again in its course does not tell."""

from collections.abc import Mapping

from replicator.apply.net_changes import NetChanges
from replicator.core.tables import Key

MOST = 20_000
"""So many are kept; of a transaction that changes more keys, only those of the batch itself are known."""


class KeyChanges:
    """Those of one transaction so far."""

    def __init__(self, by_source: Mapping[str, Mapping[Key, Key]] | None = None) -> None:
        self.by_source = by_source or {}
        """By source, the key that a row had before, by the one that it has now."""

    def after(self, net: NetChanges) -> "KeyChanges":
        """With what this batch tells."""
        if not any(state.moves for state in net.tables.values()):
            return self
        found = {name: dict(known) for name, known in self.by_source.items()}
        for name, state in net.tables.items():
            known = found.setdefault(name, {})
            moved = {new: known.get(old, old) for new, old in state.moves.items()}
            if len(known) + len(moved) <= MOST:
                for old in state.moves.values():
                    known.pop(old, None)
                known.update(moved)
        return KeyChanges(found)
