"""Copies: one declaration that says how a new table is like an old one. It makes the transform and its reverse."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replicator.core.casts import Cast, ValueFunction, quoted, read_cast, ways_back, wrong
from replicator.core.tables import COMPUTED

Row = Mapping[str, Any]
RowFunction = Callable[[Row], Any]


@dataclass(frozen=True, kw_only=True)
class Addition:
    """A new column: its SQL definition (``integer NOT NULL DEFAULT 1``), and what gives its value, if not its default.

    ``function`` is of the old row.
    """

    definition: str
    function: RowFunction | None = None


@dataclass(frozen=True, kw_only=True)
class Copy:
    """How a new table is like an old one. ``Migration.copy`` makes it, and says what its parameters mean.

    It names only the columns that do not pass as they are; which columns there are, the catalogue says.
    """

    source: str
    into: str
    rename: Mapping[str, str] = field(default_factory=dict)
    """Old name to new name."""
    cast: Mapping[str, Cast] = field(default_factory=dict)
    """By old column."""
    drop: tuple[str, ...] = ()
    """Old columns."""
    add: Mapping[str, Addition] = field(default_factory=dict)
    """By new column."""
    partition_by: str | None = None
    """``RANGE (created_at)``: for the definition of the new table; rows pass all the same."""
    back: Mapping[str, Cast] = field(default_factory=dict)
    """By old column that ``cast`` names, how it comes back."""
    restore: Mapping[str, RowFunction] = field(default_factory=dict)
    """By old column that ``drop`` names, what gives it for a new row."""
    way_back: bool = True
    """It makes the reverse transform as well."""

    @property
    def named(self) -> set[str]:
        """The old columns that it names."""
        return {*self.rename, *self.cast, *self.drop}

    def new_name(self, column: str) -> str | None:
        """What an old column is called in the new table; None when it is dropped."""
        return None if column in self.drop else self.rename.get(column, column)

    def forward(self) -> "Carrying":
        """What the transform does with a row of the old table."""
        names = {old: self.rename.get(old, old) for old in {*self.rename, *self.cast}}
        functions = {name: each.function for name, each in self.add.items() if each.function is not None}
        return _carrying(names, self.cast, self.drop, functions)

    def reverse(self) -> "Carrying":
        """What the reverse does with a row of the new table."""
        names = {self.rename.get(old, old): old for old in {*self.rename, *self.back}}
        casts = {self.rename.get(old, old): each for old, each in self.back.items()}
        return _carrying(names, casts, tuple(self.add), self.restore)


@dataclass(frozen=True, kw_only=True)
class Carrying:
    """Makes a row of one table into a row of another, whatever columns it has beside those that are named here."""

    names: Mapping[str, str]
    """By column of the row, what it is called in the other table; all others keep their names."""
    left_out: frozenset[str] = frozenset()
    """Columns of the row that are not carried over under any name, and are meant not to be."""
    functions: Mapping[str, ValueFunction] = field(default_factory=dict)
    """By column of the row."""
    added: Mapping[str, RowFunction] = field(default_factory=dict)
    """By column of the other table."""
    using: Mapping[str, str] = field(default_factory=dict)
    """Expressions that the server evaluates with the row, by the name of their column in the result."""

    def __call__(self, row: Row) -> dict[str, Any]:
        """The other table's row; of one read by a query, ``using`` is in it."""
        return self.carry(row, {name: self.names.get(name, name) for name in row if name not in self.left_out})

    def carry(self, row: Row, names: Mapping[str, str]) -> dict[str, Any]:
        """The same for these columns, each with its name in the other table."""
        for name in self.left_out:
            row.get(name)  # read, so that no check calls it forgotten
        given = {new: row[name] for name, new in names.items()}
        for name, function in self.functions.items():
            if name in names:
                given[names[name]] = _applied(function, row[name])
        for new, of_row in self.added.items():
            given[new] = of_row(row)
        return given

    def carry_key(self, row: Row, key: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The other table's key, as pairs of a column of it and one of the row, which need have no others."""
        return {
            new: _applied(self.functions[name], row[name]) if name in self.functions else row[name] for new, name in key
        }

    def query(self, schema: str, table: str) -> str:
        """A SELECT of all columns, and of what ``using`` gives. Its names are those that the author's SQL may use."""
        given = "".join(f",\n    ({text}\n    ) AS {quoted(name)}" for name, text in self.using.items())
        called = quoted(table)
        return f"SELECT\n    {called}.*{given}\nFROM {quoted(schema)}.{called} AS {called}"


def _applied(function: ValueFunction, value: Any) -> Any:
    return None if value is None else function(value)


def _carrying(
    names: Mapping[str, str], casts: Mapping[str, Cast], left_out: Sequence[str], added: Mapping[str, RowFunction]
) -> Carrying:
    expressions = {name: each.using for name, each in casts.items() if each.using is not None}
    numbered = {name: f"{COMPUTED}{place}" for place, name in enumerate(expressions, 1)}
    return Carrying(
        names={numbered.get(name, name): other for name, other in names.items()},
        left_out=frozenset({*left_out, *numbered}),
        functions={name: each.function for name, each in casts.items() if each.function is not None},
        added=added,
        using={numbered[name]: text for name, text in expressions.items()},
    )


# ---- what the author writes


def make_copy(
    source: str,
    into: str,
    *,
    rename: object,
    cast: object,
    drop: Sequence[str],
    add: object,
    partition_by: str | None,
    back: object,
    way_back: bool,
) -> Copy:
    """Read what ``Migration.copy`` is given. Raises MigrationError, with what to change."""
    if isinstance(drop, str):
        raise wrong(source, f"drop={drop!r} is no list", f"Write drop=[{drop!r}].")
    renamed, back = _names(source, rename), _by_column(source, "back", back)
    casts = {column: read_cast(source, column, given) for column, given in _by_column(source, "cast", cast).items()}
    if back and not way_back:
        raise wrong(source, "it has no way back, and back= says how columns come back", "Take one of the two out.")
    for column in back:
        if column not in casts and column not in drop:
            raise wrong(source, f"back= names {column}, which neither cast= nor drop= names", f"Take {column} out.")
    copy = Copy(
        source=source,
        into=into,
        rename=renamed,
        cast=casts,
        drop=tuple(drop),
        add={column: _addition(source, column, given) for column, given in _by_column(source, "add", add).items()},
        partition_by=partition_by,
        back=ways_back(source, casts, renamed, back) if way_back else {},
        restore={column: _restored(source, column, given) for column, given in back.items() if column in drop},
        way_back=way_back,
    )
    for problem, remedy in _clashes(copy):
        raise wrong(source, problem, remedy)
    return copy


def _by_column(source: str, name: str, given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(column, str) for column in given):
        raise wrong(source, f"{name}= is no dict of columns", f'Write {name}={{"COLUMN": ...}}.')
    return dict(given)


def _names(source: str, rename: object) -> dict[str, str]:
    names = _by_column(source, "rename", rename)
    for column, new in names.items():
        if not isinstance(new, str) or not new:
            raise wrong(source, f"{column} is renamed to no name", f'Write rename={{"{column}": "NEW_NAME"}}.')
    return names


def _clashes(copy: Copy) -> Iterator[tuple[str, str]]:
    """What the declaration contradicts itself in; what the tables contradict is found when they are read."""
    for column in copy.drop:
        if column in copy.rename or column in copy.cast:
            yield f"{column} is dropped, and renamed or cast too", f"Take {column} out of one of them."
    for new in copy.rename.values():
        if list(copy.rename.values()).count(new) > 1:
            yield f"two columns are renamed to {new}", "Give them two names."
    for new in copy.add:
        if new in copy.rename.values():
            yield f"{new} is added, and another column is renamed to it", "Give them two names."
        if new in copy.cast and new not in copy.rename:
            yield f"{new} is added, and is an old column that cast= names", "Add it under another name."


def _addition(source: str, column: str, given: object) -> Addition:
    match given:
        case (str() as definition, function) if definition.strip() and callable(function):
            return Addition(definition=definition.strip(), function=function)
        case str() if given.strip():
            return Addition(definition=given.strip())
        case _:
            raise wrong(
                source,
                f"what add= says of {column} is no definition",
                f'Write {{"{column}": "TYPE DEFAULT ..."}}, or {{"{column}": ("TYPE", FUNCTION)}} with a function of '
                "the old row.",
            )


def _restored(source: str, column: str, given: object) -> RowFunction:
    if not callable(given):
        raise wrong(
            source,
            f"{column} is dropped, and what back= says of it is no function",
            f'Write back={{"{column}": FUNCTION}} with a function of the new row, or take it out: the column then '
            "keeps its value, and a new row has its default.",
        )
    return given
