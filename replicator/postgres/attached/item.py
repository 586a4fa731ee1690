"""One thing that belongs to a table, and its statements with the table's name left open."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from replicator.core.tables import Name
from replicator.postgres.session.connect import identifier

Kind = Literal[
    "column",
    "sequence",
    "default",
    "identity",
    "not null",
    "storage",
    "compression",
    "statistics target",
    "column options",
    "check",
    "primary key",
    "unique",
    "exclusion",
    "foreign key",
    "index",
    "statistics",
    "storage parameters",
    "tablespace",
    "trigger",
    "rule",
    "row security",
    "policy",
    "replica identity",
    "clustering",
    "comment",
    "owner",
    "grant",
    "publication",
    "partition key",
]
"""``statistics`` are extended statistics; ``storage``, ``compression`` and ``statistics target`` are of one column, or
of one expression of an index; ``row security`` is whether it is enabled, and whether it is forced."""


class Own(Enum):
    """Stands for a name that is known when the text is rendered."""

    TABLE = "the table, with its schema"
    NAME = "the name of the item itself"


@dataclass(frozen=True)
class Beside:
    """Another object in the table's schema: an index or a sequence that belongs to it."""

    name: str
    literal: bool = False
    """Inside of a string: ``nextval('public.orders_id_seq'::regclass)``."""


@dataclass(frozen=True)
class Other:
    """Another table: the parent of a foreign key, which may be this table too."""

    table: Name


Piece = str | Own | Beside | Other
Text = tuple[Piece, ...]
"""A statement, or a part of one."""

Quote = Callable[[str], str]


def quoted(name: str) -> str:
    """A name, always in quotes."""
    return identifier(name).as_string()


@dataclass(frozen=True, kw_only=True)
class Attached:
    """One thing that belongs to a table.

    ``name`` is the object's own; the column's, where it belongs to one column and has no name; else empty. Texts are in
    the server's own words, with every name qualified that is not in ``pg_catalog``.
    """

    kind: Kind
    name: str = ""
    statements: tuple[Text, ...] = ()
    """What puts it on a table that has none of it yet. Empty where only CREATE TABLE can (``partition key``)."""
    fragment: Text = ()
    """How it stands within CREATE TABLE, where it can."""
    columns: tuple[str, ...] = ()
    """The columns that it names as such; those in expressions are not among them."""
    parent: Name | None = None
    """Of a foreign key."""
    parent_columns: tuple[str, ...] = ()
    """Of a foreign key: what it leads to, in the order of ``columns``."""
    by_index: tuple[Text, ...] = field(default=(), compare=False)
    """Of a unique constraint: what makes its index by itself, and then a constraint of that."""
    function: str = ""
    """Of a trigger: its function, quoted and with its schema."""
    valid: bool = True
    """False: NOT VALID, so rows may be there that do not keep the constraint."""
    of: str = field(default="", compare=False)
    """The kind of the object that a comment is on, or a grant: ``index``, ``column``, ``table``."""

    def __str__(self) -> str:
        what = f"{self.kind} on {self.of}" if self.of else self.kind
        return f"{what} {self.name}".strip()

    def sql(self, table: Name, others: Mapping[Name, Name] | None = None, quote: Quote = quoted) -> str:
        """The statements that put it on a table, each with its semicolon; empty where there are none.

        :param others: where other tables that it names are to be looked for instead.
        :param quote: how names are quoted; by default always.
        """
        found = (rendered(each, table, name=self.name, others=others, quote=quote) for each in self.statements)
        return "\n".join(f"{each};" for each in found)

    @property
    def beside(self) -> str:
        """The name of what stands beside the table and is named first: a sequence that a grant is on; or empty."""
        return next((each.name for text in self.statements for each in text if isinstance(each, Beside)), "")

    @property
    def meaning(self) -> tuple[str, ...]:
        """The same for items of two tables that differ only in the names of the tables, and of the items."""
        nowhere = Name(schema="", table="")
        texts = self.statements or (self.fragment,)
        named = "" if self.kind in UNNAMED or self.of in (*UNNAMED, "constraint") else self.name
        return (self.kind, named, *(rendered(each, nowhere, name="", quote=quoted) for each in texts))


UNNAMED = ("check", "primary key", "unique", "exclusion", "foreign key", "index", "trigger", "rule", "policy",
           "statistics", "sequence")  # fmt: skip
"""The kinds whose names do not matter for what they do."""


def rendered(
    text: Iterable[Piece],
    table: Name,
    *,
    name: str = "",
    others: Mapping[Name, Name] | None = None,
    quote: Quote = quoted,
) -> str:
    """A text with its names put in.

    :param table: the table; without a schema, it stands by itself; without a name, nothing that is its own has one.
    :param name: the item's own.
    """

    def full(each: Name) -> str:
        return f"{quote(each.schema)}.{quote(each.table)}" if each.schema else each.table

    def put(piece: Piece) -> str:
        match piece:
            case Own.TABLE:
                return full(table)
            case Own.NAME:
                return quote(name) if name else ""
            case Beside() if not table.table:
                return ""
            case Beside(name=beside, literal=literal):
                shown = f"{quote(table.schema)}.{quote(beside)}" if table.schema else quote(beside)
                return shown.replace("'", "''") if literal else shown
            case Other(table=other):
                return full((others or {}).get(other, other))
        return str(piece)

    return "".join(put(each) for each in text)


def lacking(
    old: Sequence[Attached],
    new: Sequence[Attached],
    *,
    tables: Mapping[Name, Name] | None = None,
) -> list[Attached]:
    """What the first table has and the second has not, in the order of the first.

    Two of the same meaning count twice.

    :param tables: the successors of other tables: a foreign key to one of them is carried over when it leads to its
        successor.
    """
    there = Counter(each.meaning for each in new)
    found = []
    for each in old:
        meanings = {each.meaning, _moved(each, tables or {})}
        kept = next((meaning for meaning in meanings if there[meaning]), None)
        if kept is None:
            found.append(each)
        else:
            there[kept] -= 1
    return found


def _moved(item: Attached, tables: Mapping[Name, Name]) -> tuple[str, ...]:
    """Its meaning when what it refers to has moved."""
    if item.parent is None or item.parent not in tables:
        return item.meaning
    nowhere = Name(schema="", table="")
    return (item.kind, "", *(rendered(each, nowhere, others=tables) for each in item.statements))
