"""pgoutput, protocol version 1, values as text: the messages that Postgres' own logical replication uses."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from replicator.core.changes import (
    Begin,
    Change,
    Commit,
    Event,
    Image,
    Message,
    Origin,
    RelationDefinition,
    RelationName,
)
from replicator.core.lsn import LSN
from replicator.errors import ProtocolError
from replicator.follow.decoder import MESSAGE_PREFIX, MOST_MESSAGE_BYTES, REMEDY, PluginOptions
from replicator.values import Missing

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

_BEGIN: Final = struct.Struct(">xQqI")
_COMMIT: Final = struct.Struct(">xxQQq")
_ORIGIN: Final = struct.Struct(">xQ")
_RELATION: Final = struct.Struct(">xI")
_COLUMN: Final = struct.Struct(">Ii")
_ROW: Final = struct.Struct(">xIBH")
_NEXT_ROW: Final = struct.Struct(">BH")
_TRUNCATE: Final = struct.Struct(">xIB")
_MESSAGE: Final = struct.Struct(">xBQ")
_LENGTH: Final = struct.Struct(">I")
_VALUE: Final = struct.Struct(">BI")
_PADDING: Final = b"\0" * (_VALUE.size - 1)
"""Lets a one-byte value at the end of a row be read as if a length followed it."""

_NEW, _KEY, _OLD = b"NKO"
_TEXT, _NULL, _UNCHANGED = b"tnu"


@dataclass(slots=True, frozen=True)
class _Relation:
    name: RelationName
    columns: tuple[str, ...]
    key: frozenset[str]
    """The columns of the replica identity: all of them when it is FULL."""


class PgoutputDecoder:
    """Decodes what Postgres 14 and later send for these publications. Remembers the relations that were described."""

    def __init__(self, publications: Sequence[str]) -> None:
        self.prefix = MESSAGE_PREFIX
        self.nulls_are_ambiguous = False
        self._publications = tuple(publications)
        self._relations: dict[int, _Relation] = {}
        self._readers: dict[int, Callable[[bytes], list[Event]]] = {
            ord("B"): _begin,
            ord("C"): _commit,
            ord("I"): self._insert,
            ord("U"): self._update,
            ord("D"): self._delete,
            ord("T"): self._truncate,
            ord("R"): self._define,
            ord("M"): self._message,
            ord("O"): _origin,
            ord("Y"): _nothing,  # the name of a type
        }

    def options(self) -> PluginOptions:
        """What the plugin must be asked for."""
        names = ",".join('"' + name.replace('"', '""') + '"' for name in self._publications)
        return [("proto_version", "1"), ("publication_names", names), ("messages", "true")]

    def decode(self, payload: bytes) -> list[Event]:
        """The events of one message: several for a TRUNCATE, none for some. Raises ProtocolError."""
        try:
            return self._readers[payload[0]](payload)
        except (ValueError, KeyError, IndexError, OverflowError, struct.error):
            raise ProtocolError(self._complaint(payload), REMEDY) from None

    def _complaint(self, payload: bytes) -> str:
        if not payload:
            return "pgoutput sent an empty message."
        kind = ascii(chr(payload[0]))
        if payload[0] not in self._readers:
            return f"pgoutput sent a message of kind {kind}, which does not belong to its protocol version 1."
        return f"pgoutput sent a message of kind {kind}, {len(payload)} bytes long, that does not read as one."

    def _define(self, payload: bytes) -> list[Event]:
        (oid,) = _RELATION.unpack_from(payload)
        schema, at = _string(payload, _RELATION.size)
        table, at = _string(payload, at)
        count = int.from_bytes(payload[at + 1 : at + 3])  # one byte before it: the kind of replica identity
        columns, key = _columns(payload, at + 3, count)
        name = RelationName(schema or "pg_catalog", table)
        self._relations[oid] = _Relation(name, tuple(column for column, _ in columns), frozenset(key))
        return [RelationDefinition(name, tuple(columns), tuple(key))]

    def _insert(self, payload: bytes) -> list[Event]:
        oid, marker, count = _ROW.unpack_from(payload)
        relation = self._relations[oid]
        if marker != _NEW:
            raise ValueError
        new, end = _row(payload + _PADDING, _ROW.size, count, relation)
        _expect_end(payload, end)
        return [Change(relation.name, "insert", new)]

    def _update(self, payload: bytes) -> list[Event]:
        oid, marker, count = _ROW.unpack_from(payload)
        relation = self._relations[oid]
        data, at, old = payload + _PADDING, _ROW.size, None
        if marker != _NEW:
            old, at = _old_row(data, at, count, relation, marker)
            marker, count = _NEXT_ROW.unpack_from(payload, at)
            at += _NEXT_ROW.size
        if marker != _NEW:
            raise ValueError
        new, end = _row(data, at, count, relation)
        _expect_end(payload, end)
        return [Change(relation.name, "update", new, old)]

    def _delete(self, payload: bytes) -> list[Event]:
        oid, marker, count = _ROW.unpack_from(payload)
        relation = self._relations[oid]
        old, end = _old_row(payload + _PADDING, _ROW.size, count, relation, marker)
        _expect_end(payload, end)
        return [Change(relation.name, "delete", None, old)]

    def _truncate(self, payload: bytes) -> list[Event]:
        count, _ = _TRUNCATE.unpack_from(payload)
        _expect_end(payload, _TRUNCATE.size + 4 * count)
        oids = struct.unpack_from(f">{count}I", payload, _TRUNCATE.size)
        return [Change(self._relations[oid].name, "truncate") for oid in oids]

    def _message(self, payload: bytes) -> list[Event]:
        flags, _ = _MESSAGE.unpack_from(payload)
        prefix, at = _string(payload, _MESSAGE.size)
        (length,) = _LENGTH.unpack_from(payload, at)
        start = at + _LENGTH.size
        _expect_end(payload, start + length)
        if prefix != self.prefix or length > MOST_MESSAGE_BYTES:
            return []  # pgoutput cannot be told to leave them out
        return [Message(prefix, payload[start:], bool(flags & 1))]


def _begin(payload: bytes) -> list[Event]:
    _, microseconds, xid = _BEGIN.unpack(payload)
    return [Begin(xid, _moment(microseconds))]


def _origin(payload: bytes) -> list[Event]:
    name, end = _string(payload, _ORIGIN.size)
    _expect_end(payload, end)
    return [Origin(name)]


def _commit(payload: bytes) -> list[Event]:
    # The commit's end, not its own position: a stream from there would bring this transaction again (I2).
    # mutation: pgoutput-commit-end
    _, end_lsn, microseconds = _COMMIT.unpack(payload)
    return [Commit(LSN(end_lsn), _moment(microseconds))]


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _nothing(_: bytes) -> list[Event]:
    return []


def _string(payload: bytes, at: int) -> tuple[str, int]:
    end = payload.index(b"\0", at)
    return payload[at:end].decode(), end + 1


def _columns(payload: bytes, at: int, count: int) -> tuple[list[tuple[str, int]], list[str]]:
    columns, key = [], []
    for _ in range(count):
        is_key = payload[at] & 1
        name, at = _string(payload, at + 1)
        type_oid, _modifier = _COLUMN.unpack_from(payload, at)
        at += _COLUMN.size
        columns.append((name, type_oid))
        if is_key:
            key.append(name)
    _expect_end(payload, at)
    return columns, key


def _old_row(data: bytes, at: int, count: int, relation: _Relation, marker: int) -> tuple[Image, int]:
    """The old row; of one that is identified by its key, only the key: the other columns are not NULL but unknown."""
    if marker not in (_KEY, _OLD):
        raise ValueError
    image, at = _row(data, at, count, relation)
    # Else every column outside the key would be taken for NULL. mutation: pgoutput-key-only
    if marker == _KEY:
        image = {name: value for name, value in image.items() if name in relation.key}
    return image, at


def _row(data: bytes, at: int, count: int, relation: _Relation) -> tuple[Image, int]:
    """One row's values, and where they end. Slices past the end come out short: the caller compares the end."""
    if count != len(relation.columns):
        raise ValueError
    image: Image = {}
    value_at = _VALUE.unpack_from
    for name in relation.columns:
        kind, length = value_at(data, at)
        if kind == _TEXT:
            start = at + _VALUE.size
            at = start + length
            image[name] = data[start:at].decode()
        elif kind == _NULL:
            image[name] = None
            at += 1
        elif kind == _UNCHANGED:
            # Not None: the value on the target would become NULL. mutation: pgoutput-unchanged
            image[name] = Missing.UNCHANGED
            at += 1
        else:
            raise ValueError
    return image, at


def _expect_end(payload: bytes, end: int) -> None:
    # Bytes that are left over mean a format that is not understood. mutation: pgoutput-overlong
    if end != len(payload):
        raise ValueError
