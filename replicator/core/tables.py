"""Tables and columns as the catalogue describes them: plain data."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Final

from replicator.core.equality import Form, form_of_kind
from replicator.values import Kind, Value, to_text

Key = tuple[str, ...]
"""A key's columns in their form (``equality.Form``), in the key's order. Never NULL."""

Row = dict[str, Value]


@dataclass(frozen=True, kw_only=True)
class Name:
    """A table's qualified name."""

    schema: str
    table: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True, kw_only=True)
class Operators:
    """What compares a type's values: the operators of its default operator class, and the schema that they are in.

    For a type of an extension that is another schema than ``pg_catalog``, and no session of ours looks there by itself.
    """

    schema: str = "pg_catalog"
    equal: str = "="
    less: str = "<"
    less_or_equal: str = "<="
    greater: str = ">"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column; ``type`` is what ``format_type`` prints, with its modifier."""

    name: str
    type: str
    type_oid: int
    kind: Kind
    not_null: bool = False
    has_default: bool = False
    """One of its own, of its domain's, or a number from its sequence."""
    generated: bool = False
    identity: bool = False
    """GENERATED ALWAYS AS IDENTITY: it can be given to a new row, but not changed."""
    cast: str = ""
    """The type without its modifier, for SQL: a cast to ``varchar(10)`` would cut a value of a column made wider."""
    operators: Operators = Operators()
    """For SQL that compares: ``=`` alone would be looked up in ``pg_catalog``, where citext is equal as text is."""

    equality: Form | None = None
    """None: as its kind has it."""

    @cached_property
    def form(self) -> Form:
        """How its values are compared where no server is at hand."""
        return self.equality or form_of_kind(self.kind)

    @property
    def bare_type(self) -> str:
        """What text is cast to, to be compared with this column."""
        return self.cast or self.type


@dataclass(frozen=True, kw_only=True)
class ForeignKey:
    """A foreign key from this table; ``acts`` when deleting the parent changes this table's rows (CASCADE, SET ...).

    ``deferrable`` when all of it can wait for the transaction's end: RESTRICT never does.
    """

    name: str
    columns: tuple[str, ...]
    parent: Name
    parent_columns: tuple[str, ...]
    deferrable: bool
    acts: bool
    operators: tuple[Operators, ...] = ()
    """For each pair of columns, what compares the parent's column (left) with this table's (right)."""
    detachable: tuple[str, ...] = ()
    """The columns that hold a row to no parent once they are NULL; none where it cannot be let go of so."""

    restricts: bool = False
    """ON DELETE RESTRICT: a parent cannot go even if another row has its key when the statement ends."""
    follows: bool = False
    """ON UPDATE CASCADE: a parent may be given another key."""

    @property
    def binds(self) -> bool:
        """Whether a parent cannot simply be deleted and written again while a child refers to it."""
        return self.acts or self.follows or not self.deferrable


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its primary key; ``leaves`` are the partitions whose names the WAL may carry instead."""

    name: Name
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    replica_identity: str = "d"
    """As in pg_class.relreplident: d(efault), n(othing), f(ull), i(ndex)."""
    identity_columns: tuple[str, ...] = ()
    """The columns that an UPDATE or DELETE in the WAL identifies the old row by."""
    partitioned: bool = False
    leaves: tuple[Name, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = field(default=())
    original: str = ""
    """What the migration calls it, while a cutover has renamed it."""

    @property
    def declared(self) -> str:
        """What the migration calls it, without schema."""
        return self.original or self.name.table

    @cached_property
    def by_name(self) -> Mapping[str, Column]:
        """The columns by name."""
        return {column.name: column for column in self.columns}

    @cached_property
    def key_columns(self) -> tuple[Column, ...]:
        """The columns of the primary key, in its order."""
        return tuple(self.by_name[name] for name in self.key)

    @cached_property
    def unwritable(self) -> frozenset[str]:
        """The columns that no transform may give: they could not be changed later."""
        return frozenset(
            each.name for each in self.columns if each.generated or (each.identity and each.name not in self.key)
        )

    @cached_property
    def spelt_apart(self) -> frozenset[str]:
        """The columns of the key that may show equal values otherwise, and can be changed from one to another."""
        return frozenset(
            name for name in self.key if self.by_name[name].form.spelt_apart and not self.by_name[name].identity
        )

    def key_of(self, row: Mapping[str, Value]) -> Key:
        """The primary key of a row. Raises KeyError when a column is not in the row, ValueError when it is NULL."""
        return key_of(row, self.key, self.by_name)


def key_of(row: Mapping[str, Value], columns: tuple[str, ...], by_name: Mapping[str, Column]) -> Key:
    """The key in the named columns of a row; where the server must be asked for the form, as the row spells it.

    Raises KeyError for an absent column, ValueError for NULL and for what the column cannot hold.
    """
    parts = []
    for name in columns:
        column = by_name[name]
        text = to_text(row[name], column.kind)
        if text is None:
            raise ValueError(f"key column {name} is null")
        form = text if column.form.asked else column.form.of(text)
        if not column.form.asked and not column.form.holds(form):
            raise ValueError(f"key column {name} is out of range")
        parts.append(form)
    return tuple(parts)


def printed_key(texts: Iterable[str | None], columns: tuple[str, ...], by_name: Mapping[str, Column]) -> Key | None:
    """The key that Postgres has printed, column by column, as ``postgres.keys`` selects it; None when one is NULL."""
    parts = tuple(
        by_name[name].form.of(text) for name, text in zip(columns, texts, strict=True) if text is not None
    )  # fmt: skip
    return parts if len(parts) == len(columns) else None


def encode_key(key: Key) -> str:
    """A key as one text, for the control tables."""
    return json.dumps(key, ensure_ascii=False, separators=(",", ":"))


def decode_key(text: str) -> Key:
    """The inverse of ``encode_key``."""
    return tuple(json.loads(text))


COMPUTED: Final = "replicator_using_"
"""Begins the names of columns that a copy's query computes from the row's own."""


def fingerprint(row: Row | None) -> str:
    """Tells whether a row is still the same, without holding it; None stands for a row that is not there.

    It is the same for a row of a table and for that row with computed columns.
    """
    if row is None:
        return ""
    own = sorted((name, value) for name, value in row.items() if not name.startswith(COMPUTED))
    return blake2b(repr(own).encode(errors="surrogatepass"), digest_size=16).hexdigest()


UNREADABLE: Final = fingerprint({})
"""The mark of a row that the server could not give."""
