"""What a draft is made from, and what comes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from replicator.core.copies import Copy
from replicator.postgres.attached import Attached, Partition


@dataclass(frozen=True, kw_only=True)
class Original:
    """An old table that is copied, and what belongs to it."""

    copy: Copy
    items: Sequence[Attached]
    partitions: Sequence[Partition] = ()


@dataclass(frozen=True, kw_only=True)
class Remark:
    """What the author must know of one thing: mostly that it is not carried over."""

    what: str
    why: str
    remedy: str
    sql: str = ""
    """What would make it on the new table, where nothing does."""


@dataclass(kw_only=True)
class Draft:
    """A new table, and what belongs to it, in the names and types of the new schema."""

    original: Original
    items: list[Attached] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    key_columns: tuple[str, ...] = ()
    """The columns by which it is partitioned; empty where it is not, or by expressions."""

    @property
    def copy(self) -> Copy:
        """As declared."""
        return self.original.copy
