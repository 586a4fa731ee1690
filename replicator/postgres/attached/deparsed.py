"""Takes the server's own statements apart, so that names can be put in for others."""

import re
from collections.abc import Iterable, Iterator, Sequence

from replicator.postgres.attached.item import Beside, Own, Piece, Text
from replicator.postgres.ddl.statements import TOKEN

PLAIN_VALUE = re.compile(r"[0-9]+(?:\.[0-9]+)?|[a-z_]+")


def literal(text: str) -> str:
    """A string constant of SQL, for sessions with ``standard_conforming_strings``."""
    return "'" + text.replace("'", "''") + "'"


def at(text: str, word: str, name: str) -> tuple[str, str]:
    """What stands before and after the first ``word name`` of a statement that is not inside of quotes.

    :param word: ``ON``, for one; it is kept with what stands before.
    :param name: quoted, with its schema.
    :raises LookupError: there is none.
    """
    wanted = f" {word} {name}"
    for place in _outside(text):
        if text.startswith(wanted, place) and not _continues(text, place + len(wanted)):
            return text[: place + len(word) + 2], text[place + len(wanted) :]
    raise LookupError(f"{wanted!r} is not in a statement of the server's")


def _continues(text: str, place: int) -> bool:
    """Whether the name goes on: ``public.order`` in ``public.orders``."""
    return place < len(text) and (text[place].isalnum() or text[place] in '_$"')


def _outside(text: str) -> Iterator[int]:
    """The places where something begins that is in no quotes."""
    place = 0
    while token := TOKEN.match(text, place):
        yield place
        place = token.end()


def with_sequences(expression: str, sequences: Iterable[tuple[str, str]]) -> Text:
    """An expression in which a table's own sequences are parameters.

    :param sequences: the name of each, and how the server prints it as a regclass: ``'public.orders_id_seq'``.
    """
    pieces: list[Piece] = [expression]
    for name, printed in sequences:
        found: list[Piece] = []
        for piece in pieces:
            parts = piece.split(f"{printed}::regclass") if isinstance(piece, str) else []
            found += [piece] if not parts else parts[:1]
            for part in parts[1:]:
                found += ["'", Beside(name, literal=True), "'::regclass", part]
        pieces = found
    return tuple(each for each in pieces if each != "")


def options(given: Sequence[str], prefix: str = "") -> list[str]:
    """``reloptions`` and the like, as SET takes them."""
    found = []
    for each in given:
        name, _, value = each.partition("=")
        found.append(f"{prefix}{name} = {value if PLAIN_VALUE.fullmatch(value) else literal(value)}")
    return found


def alter(what: str) -> Text:
    """``ALTER TABLE`` of the table."""
    return ("ALTER TABLE ", Own.TABLE, f" {what}")
