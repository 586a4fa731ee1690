"""What the stream carries, once decoded: events in the log's order, values still the text that Postgres printed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, Self

from replicator.core.lsn import LSN
from replicator.core.tables import Name
from replicator.values import Missing

Operation = Literal["insert", "update", "delete", "truncate"]


class RelationName(NamedTuple):
    """Schema and table, as the stream names them. A tuple, for one is made and hashed for each change."""

    schema: str
    table: str

    @classmethod
    def of(cls, name: Name) -> Self:
        """That of a table of the catalogue."""
        return cls(name.schema, name.table)


Image = dict[str, str | None | Missing]
"""Column name to text. A column that the log leaves out may be absent or ``Missing.UNCHANGED``; absent is not NULL."""


@dataclass(slots=True, frozen=True)
class Begin:
    """A transaction starts; its commit is already in the log."""

    xid: int
    """32 bits, as the log has it."""
    committed_at: datetime


@dataclass(slots=True, frozen=True)
class Origin:
    """Comes after ``Begin`` when the transaction was written under a replication origin: by us, or by a subscription.

    ``origin`` is its name (pgoutput), or its number's digits (wal2json).
    """

    origin: str


@dataclass(slots=True, frozen=True)
class Commit:
    """The transaction ends. ``end_lsn`` is the position to confirm once it is applied."""

    end_lsn: LSN
    committed_at: datetime


@dataclass(slots=True)  # not frozen: there are millions, and that would cost a fifth of their making
class Change:
    """One row change, or the truncation of one relation.

    ``old`` holds what the log says of the old row: the replica identity when the update changed it or it is FULL, else
    None for an update; the identity for a delete; None for the rest. ``new`` is None for delete and truncate.
    """

    relation: RelationName
    operation: Operation
    new: Image | None = None
    old: Image | None = None
    committed_at: datetime | None = None
    """When its transaction committed, once it is in the inbox."""
    own: bool = False
    """Written by the opposite pipeline (rolling deploys): no change of the application's."""


@dataclass(slots=True, frozen=True)
class Message:
    """``pg_logical_emit_message``: a marker or heartbeat of ours, or somebody else's."""

    prefix: str
    content: bytes
    transactional: bool


@dataclass(slots=True, frozen=True)
class RelationDefinition:
    """pgoutput tells a relation's columns before its first change, and again after the definition changed."""

    relation: RelationName
    columns: tuple[tuple[str, int], ...]
    """Name and type oid."""
    identity: tuple[str, ...] | None = None
    """The columns that the old row of a change is named by; None when the plugin does not tell."""


Event = Begin | Origin | Commit | Change | Message | RelationDefinition
