"""wal2json, format version 2: every message is one JSON document. Numbers are kept as their digits, never parsed."""

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from replicator.core.changes import Begin, Change, Commit, Event, Image, Message, Origin, RelationName
from replicator.core.lsn import LSN, parse_lsn
from replicator.errors import ProtocolError
from replicator.follow.decoder import MESSAGE_PREFIX, MOST_MESSAGE_BYTES, REMEDY, PluginOptions

Document = dict[str, Any]


class Wal2JsonDecoder:
    """Decodes wal2json 2.5 and later. The database's encoding must be UTF-8: the plugin does not convert.

    :param tables: the schemas and tables to ask for; None for a table means all of the schema, later ones too.
    :param numbers_as_text: wal2json is 2.6 or later, so NaN and infinity need not come as null.
    """

    def __init__(self, tables: Iterable[tuple[str, str | None]], *, numbers_as_text: bool = False) -> None:
        self._tables = tuple(tables)
        self._numbers_as_text = numbers_as_text
        self.prefix = MESSAGE_PREFIX
        self.nulls_are_ambiguous = not numbers_as_text

    def options(self) -> PluginOptions:
        """What the plugin must be asked for."""
        options = [
            ("format-version", "2"),
            ("include-transaction", "true"),
            ("include-xids", "true"),
            ("include-timestamp", "true"),
            ("include-lsn", "true"),
            ("include-origin", "true"),
            ("include-types", "false"),
            ("add-tables", ",".join(_table_pattern(schema, table) for schema, table in self._tables)),
            ("add-msg-prefixes", self.prefix),
        ]
        if self._numbers_as_text:
            options.append(("numeric-data-types-as-string", "true"))
        return options

    def decode(self, payload: bytes) -> list[Event]:
        """The event of one message, two for the begin of a transaction with an origin. Raises ProtocolError."""
        if len(payload) > MOST_MESSAGE_BYTES and payload.startswith(_A_MESSAGE):
            return []  # not ours, and perhaps a gigabyte long: parsed, it would take several times as much
        try:
            document = _read(payload)
            event = _READERS[document["action"]](document)
            return [event, *_origin(document)] if event.__class__ is Begin else [event]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise ProtocolError(_complaint(payload), REMEDY) from None


_A_MESSAGE: Final = b'{"action":"M"'
"""As wal2json prints it: without white space, the action first."""


def _complaint(payload: bytes) -> str:
    action = re.match(rb'\{"action":"([A-Z])"', payload)
    kind = f"a message of kind {action[1].decode()}" if action else "a message of unknown kind"
    return f"wal2json sent {kind}, {len(payload)} bytes long, that does not read as its format version 2."


# ---- the option add-tables


def _table_pattern(schema: str, table: str | None) -> str:
    return f"{_escaped(schema)}.{'*' if table is None else _escaped(table)}"


def _escaped(name: str) -> str:
    return re.sub(r"([^0-9A-Za-z_\u0080-\U0010ffff])", r"\\\1", name)


# ---- the documents


# As text: a float would lose digits of numeric and bigint values. mutation: wal2json-digits
_JSON: Final = json.JSONDecoder(parse_int=str, parse_float=str)


def _read(payload: bytes) -> Document:
    text = payload.decode()
    document, end = _JSON.raw_decode(text)
    if end != len(text) or document.__class__ is not dict:
        raise ValueError
    if "\\" in text and "\\u" in text:  # the first test is by far the faster one
        _refuse_lone_surrogates(document)
    return document


def _refuse_lone_surrogates(document: Document) -> None:
    json.dumps(document, ensure_ascii=False).encode()


def _begin(document: Document) -> Event:
    xid = int(_text(document, "xid"))
    if not 0 <= xid < 1 << 32:
        raise ValueError
    return Begin(xid, _moment(document))


def _origin(document: Document) -> list[Event]:
    return [] if document.get("origin", "0") == "0" else [Origin(_text(document, "origin"))]


def _commit(document: Document) -> Event:
    # The commit's end, not its own position: a stream from there would bring this transaction again (I2).
    # mutation: wal2json-commit-end
    end = parse_lsn(_text(document, "nextlsn"))
    if not 0 <= end < 1 << 64:
        raise ValueError
    return Commit(LSN(end), _moment(document))


def _moment(document: Document) -> datetime:
    moment = datetime.fromisoformat(_text(document, "timestamp"))
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(UTC)


def _insert(document: Document) -> Event:
    return Change(_relation(document), "insert", _image(document["columns"]))


def _update(document: Document) -> Event:
    new = _image(document["columns"])
    old = _image(document["identity"])
    # Else a changed key would leave the old row on the target. mutation: wal2json-key-change
    if old.items() <= new.items():
        return Change(_relation(document), "update", new)  # the identity was taken from the new row, or might have been
    return Change(_relation(document), "update", new, old)


def _delete(document: Document) -> Event:
    return Change(_relation(document), "delete", None, _image(document["identity"]))


def _truncate(document: Document) -> Event:
    return Change(_relation(document), "truncate")


def _message(document: Document) -> Event:
    transactional = document["transactional"]
    if transactional.__class__ is not bool:
        raise TypeError
    return Message(_text(document, "prefix"), _text(document, "content").encode(), transactional)


_READERS: Final[dict[str, Callable[[Document], Event]]] = {
    "B": _begin,
    "C": _commit,
    "I": _insert,
    "U": _update,
    "D": _delete,
    "T": _truncate,
    "M": _message,
}


def _relation(document: Document) -> RelationName:
    return RelationName(_text(document, "schema"), _text(document, "table"))


def _text(document: Document, field: str) -> str:
    text = document[field]
    if text.__class__ is not str:
        raise TypeError
    return text  # of a number, its digits


_WORDS: Final[dict[bool | None, str | None]] = {None: None, True: "t", False: "f"}


def _image(columns: list[dict[str, Any]]) -> Image:
    image: Image = {
        column["name"]: value if (value := column["value"]).__class__ is str else _WORDS[value] for column in columns
    }
    "".join(image)  # raises TypeError when a name is no string
    return image
