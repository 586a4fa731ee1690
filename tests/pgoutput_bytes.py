"""Messages of pgoutput, protocol version 1, made by hand."""

import struct
from collections.abc import Sequence

from replicator.values import Missing

Columns = Sequence[tuple[str, bool]]
"""Names, and whether each belongs to the replica identity."""


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def relation(oid: int, schema: str, table: str, columns: Columns, identity: bytes = b"d") -> bytes:
    described = b"".join(bytes([key]) + text(name) + struct.pack(">Ii", 25, -1) for name, key in columns)
    return b"R" + struct.pack(">I", oid) + text(schema) + text(table) + identity + count(columns) + described


def row(values: Sequence[str | Missing | None]) -> bytes:
    return count(values) + b"".join(value(each) for each in values)


def count(things: Sequence[object]) -> bytes:
    return struct.pack(">H", len(things))


def value(each: str | Missing | None) -> bytes:
    if isinstance(each, str):
        return b"t" + struct.pack(">I", len(each.encode())) + each.encode()
    return b"n" if each is None else b"u"


def insert(oid: int, new: Sequence[str | Missing | None]) -> bytes:
    return b"I" + struct.pack(">I", oid) + b"N" + row(new)


def update(
    oid: int, new: Sequence[str | Missing | None], old: Sequence[str | Missing | None] = (), marker: bytes = b""
) -> bytes:
    return b"U" + struct.pack(">I", oid) + (marker + row(old) if marker else b"") + b"N" + row(new)


def delete(oid: int, old: Sequence[str | Missing | None], marker: bytes = b"K") -> bytes:
    return b"D" + struct.pack(">I", oid) + marker + row(old)


def truncate(oids: Sequence[int], flags: int = 0) -> bytes:
    return b"T" + struct.pack(f">IB{len(oids)}I", len(oids), flags, *oids)


def begin(final_lsn: int, microseconds: int, xid: int) -> bytes:
    return b"B" + struct.pack(">QqI", final_lsn, microseconds, xid)


def commit(lsn: int, end_lsn: int, microseconds: int) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, lsn, end_lsn, microseconds)


def message(flags: int, lsn: int, prefix: str, content: bytes) -> bytes:
    return b"M" + struct.pack(">BQ", flags, lsn) + text(prefix) + struct.pack(">I", len(content)) + content
