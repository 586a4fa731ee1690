"""The rows that diverge, as far as verification has come: what was compared again replaces what was found before."""

from collections.abc import Callable, Collection
from itertools import islice

from replicator.core.tables import Key
from replicator.verify.comparison import Divergence


class Findings:
    """One pipeline's."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, Key], Divergence] = {}
        """Rows that are not what one source row gives, or that none gives: looked at longest ago first."""
        self._collisions: dict[tuple[str, Key], Divergence] = {}
        """Rows that several source rows give: whichever of these is written, the others are different."""

    def __len__(self) -> int:
        return len(self._found) + len(self._collisions)

    def all(self) -> list[Divergence]:
        """Every divergence."""
        return [*self._found.values(), *self._collisions.values()]

    @property
    def collisions(self) -> list[Divergence]:
        """Those of rows that several source rows give."""
        return list(self._collisions.values())

    def keys_of(self, source: str, limit: int | None = None) -> list[Key]:
        """The source keys of those that comparing a source row again can settle, the oldest first."""
        keys = (each.source_key for each in self._found.values() if each.source == source)
        return list(islice(dict.fromkeys(key for key in keys if key is not None), limit))

    def compared(self, source: str, keys: Collection[Key], found: Collection[Divergence]) -> None:
        """These source keys have been compared again."""
        self._replace(lambda each: each.source == source and each.source_key in keys, found)

    def searched(self, found: Collection[Divergence]) -> None:
        """All rows that nothing gives have been looked for, and all that several source rows give."""
        self.collisions_compared([each for each in found if each.owners])
        self._replace(lambda each: each.source is None, [each for each in found if not each.owners])

    def collisions_compared(self, found: Collection[Divergence]) -> None:
        """The rows that several source rows gave have been looked at again."""
        self._collisions = {(each.target, each.key): each for each in found}

    def collided(self, found: Collection[Divergence]) -> None:
        """These rows have been found to have several source rows."""
        if found:
            self.collisions_compared([*self._collisions.values(), *found])
            self._replace(lambda _: False, found=[])

    def _replace(self, gone: Callable[[Divergence], bool], found: Collection[Divergence]) -> None:
        if not self._found and not found:
            return
        left = {place: each for place, each in self._found.items() if not gone(each)}
        left.update({(each.target, each.kind, each.key): each for each in found})
        self._found = {
            place: each for place, each in left.items() if (each.target, each.key) not in self._collisions
        }  # fmt: skip
