"""Names of what belongs to a table, where the old ones cannot be kept."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from replicator.core.copies import Copy
from replicator.postgres.attached import Attached, Beside, Piece, Text

LONGEST: Final = 63
"""Bytes of a name in Postgres."""
RELATIONS: Final = ("primary key", "unique", "exclusion", "index", "sequence", "statistics")
"""The kinds whose names are taken in the whole schema."""


def beside_called(item: Attached, names: Mapping[str, str]) -> Attached:
    """An item that finds what is beside its table under other names."""

    def one(piece: Piece) -> Piece:
        return replace(piece, name=names.get(piece.name, piece.name)) if isinstance(piece, Beside) else piece

    def text(pieces: Text) -> Text:
        return tuple(one(each) for each in pieces)

    return replace(item, statements=tuple(text(each) for each in item.statements), fragment=text(item.fragment))


def of_another(items: Sequence[Attached], copy: Copy) -> list[Attached]:
    """What belongs to a table that is copied a second time, into another one: names are taken in the new schema."""
    sequences = {each.beside for each in items if each.kind == "identity"} - {""}
    names = {
        each: fitting(copy.into, each.removeprefix(copy.source) if each.startswith(copy.source) else f"_{each}")
        for each in {one.name for one in items if one.kind in RELATIONS} | sequences
    }
    kinds = {"constraint", "index", "sequence", "statistics"}
    return [
        replace(found, name=names.get(found.name, found.name))
        if found.kind in RELATIONS or found.of in kinds
        else found
        for found in (beside_called(each, names) for each in items)
    ]


def fitting(start: str, end: str) -> str:
    """A name of both, whose start is shortened where it is too long."""
    room = max(1, LONGEST - len(end.encode()))
    return (start.encode()[:room].decode(errors="ignore") + end).encode()[:LONGEST].decode(errors="ignore")
