"""The authors' API: a Migration and its transforms. Pure declarations; nothing here touches a database."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final, Literal, TypeVar

from replicator.core.copies import Carrying, Copy, make_copy
from replicator.core.queries import ALL, DependsOn, Lookup, Query
from replicator.core.selects import Select, SelectedKey, is_file
from replicator.errors import MigrationError

__all__ = [
    "ALL",
    "NO_WAY_BACK",
    "DependsOn",
    "Direction",
    "Function",
    "KeyFunction",
    "Lookup",
    "Migration",
    "NewRows",
    "Query",
    "Row",
    "Transform",
    "as_rows",
]

Row = Mapping[str, Any]
"""One row of a source: column name to value."""

Direction = Literal["forward", "reverse"]

NewRows = dict[str, Any] | list[dict[str, Any]] | None
"""What a transform returns: one row, several, or none."""

Function = Callable[[Row], NewRows]
KeyFunction = Callable[[Row], Any]
F = TypeVar("F", bound=Callable[..., NewRows])


NO_WAY_BACK: Final = "The migration has no way back: there is no rollback"
"""What commands say of ``Migration(..., way_back=False)``."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A pure mapping from the rows of one source to rows of one target table."""

    name: str
    direction: Direction
    source: str | Query
    into: str
    key: KeyFunction | None
    function: Function

    @property
    def source_name(self) -> str:
        """The source's name: a table's, or a query's."""
        return self.source.name if isinstance(self.source, Query) else self.source

    @property
    def table(self) -> str:
        """The table that it reads row by row, if it does: its source, or what a copy reads through the server."""
        return self.source.copied if isinstance(self.source, Query) else self.source


@dataclass
class Migration:
    """A migration from the tables of one Postgres schema to those of another.

    :param name: names the migration in messages and in the control tables.
    :param old: the Postgres schema that the application leaves.
    :param new: the Postgres schema that it moves to.
    :param sql: the folder with ``old/``, ``new/``, ``checks/`` and the queries; by default ``sql/`` beside the package
        that the settings name.
    :param whole_schema: nothing of the old schema stays behind: ``check`` fails on a table that the migration neither
        transforms, nor retires, nor leaves by name. Otherwise what it does not mention is left alone.
    :param way_back: False: there are no reverse transforms, and no rollback after the cutover, which asks for
        ``--no-way-back``.
    :param accept: what the new tables may do without, though it is a matter of security or of access, in the words of
        ``check``: ``policy orders.tenant_only``, ``row security orders``, ``grant orders.web``.
    """

    name: str
    old: str
    new: str
    sql: Path | None = None
    whole_schema: bool = field(default=False, kw_only=True)
    way_back: bool = field(default=True, kw_only=True)
    accept: Sequence[str] = field(default=(), kw_only=True)
    transforms: list[Transform] = field(default_factory=list, init=False)
    retired: dict[str, str] = field(default_factory=dict, init=False)
    retired_columns: dict[str, dict[str, str]] = field(default_factory=dict, init=False)
    left: set[str] = field(default_factory=set, init=False)
    copies: list[Copy] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Raise MigrationError for what would be read letter by letter."""
        if isinstance(self.accept, str):
            raise MigrationError("accept= is a text.", f"Write a list: accept=[{self.accept!r}].")

    def transform(
        self, *, source: str | Query, into: str, key: KeyFunction | None = None, name: str | None = None
    ) -> Callable[[F], F]:
        """Declare a transform from the old schema to the new one.

        :param source: an old table, or a Query over several.
        :param into: the new table.
        :param key: gives the target key from a row that has only the source key's columns: a value, or a tuple in the
            order of the primary key. Leave it out when the target key hangs on anything else; it is then remembered.
        :param name: names the transform; by default the function's name. MigrationError if it is taken.
        """
        return self._declare("forward", source, into, key, name)

    def reverse(
        self, *, source: str | Query, into: str, key: KeyFunction | None = None, name: str | None = None
    ) -> Callable[[F], F]:
        """Declare a transform from the new schema back to the old one; the parameters are those of ``transform``."""
        return self._declare("reverse", source, into, key, name)

    def sql_transform(
        self, *, source: str | Query, into: str, sql: str, key: str | None = None, name: str | None = None
    ) -> None:
        """Declare a transform that the server runs, from the old schema to the new one.

        :param sql: a file under the migration's ``sql/`` (``requests.sql``), or the text of one SELECT: over the source
            row, which is called ``old``, and nothing else. Its columns are named as those of ``into``. It returns one
            new row, several, or none, and follows from the row alone: no clock, no other table.
        :param key: the new primary key by the source key's columns alone, as in a select list:
            ``"party.request_id(old.id)"``, ``"old.a, old.b"``. Leave it out as in ``transform``.
        :param name: by default that of the file; of a text, ``SOURCE_into_INTO``. MigrationError if it is taken.
        """
        self._select("forward", source, into, Select(text=sql), key, name)

    def sql_reverse(
        self, *, source: str | Query, into: str, sql: str, key: str | None = None, name: str | None = None
    ) -> None:
        """Declare one back to the old schema; the parameters are those of ``sql_transform``, ``old`` is the new row."""
        self._select("reverse", source, into, Select(text=sql), key, name)

    def copy(
        self,
        source: str,
        *,
        into: str,
        rename: Mapping[str, str] | None = None,
        cast: Mapping[str, str | tuple[str, Callable[[Any], Any]]] | None = None,
        drop: Sequence[str] = (),
        add: Mapping[str, str | tuple[str, Callable[[Row], Any]]] | None = None,
        partition_by: str | None = None,
        back: Mapping[str, str | Callable[[Any], Any] | tuple[str, Callable[[Any], Any]]] | None = None,
        way_back: bool = True,
    ) -> Copy:
        """Declare that a new table is like an old one: the transform, and its reverse if the migration has a way back.

        Every column that is not named here passes as it is. The target key is computed where it consists of columns
        that pass, and remembered otherwise.

        :param source: the old table.
        :param into: the new table.
        :param rename: old column to new column.
        :param cast: old column to ``"bigint"`` (the value passes as it is, and the new type reads it),
            ``"timestamptz USING at AT TIME ZONE 'UTC'"`` (the server evaluates the expression over the old row's
            columns), or a pair of the type and a function of the value; NULL stays NULL for a function.
        :param drop: old columns that have no successor. On the way back they keep their value, and have their default
            in a row that is new.
        :param add: new column to its SQL definition (``"integer NOT NULL DEFAULT 1"``), or a pair of that and a
            function of the old row; without a function its default counts. It is not carried on the way back.
        :param partition_by: ``"RANGE (created_at)"``, for ``replicator schema --generate``; rows pass all the same.
        :param back: old column to how it comes back. A column that ``cast`` names: as there, over the new columns;
            a plain cast, ``x::type`` and ``x AT TIME ZONE 'zone'`` need no word. One that ``drop`` names: a function
            of the new row.
        :param way_back: False: it has no reverse, or you write it.
        :raises MigrationError: the declaration contradicts itself, or does not say how a column comes back.
        """
        copy = make_copy(
            source,
            into,
            rename=rename or {},
            cast=cast or {},
            drop=drop,
            add=add or {},
            partition_by=partition_by,
            back=back or {},
            way_back=way_back and self.way_back,
        )
        self._refuse_second_copy(copy)
        name = f"copy_{source}" if into == source else f"copy_{source}_into_{into}"
        self._carry("forward", name, self.old, source, into, copy.forward())
        if copy.way_back:
            self._carry("reverse", f"{name}_back", self.new, into, source, copy.reverse())
        for column in copy.drop:
            self.retire(source, column=column, because=f"the copy into {into} drops it")
        self.copies.append(copy)
        return copy

    def leave(self, *tables: str) -> None:
        """Declare that old tables stay as they are, and go on taking the application's writes.

        They are not guarded, renamed, archived or dropped, and not followed; so is every table that the migration does
        not mention. One that a Query reads is named here to stay: its changes are followed until the cutover, whose
        transaction holds its writers too.
        """
        self.left.update(tables)

    def retire(self, table: str, *, because: str, column: str | None = None) -> None:
        """Declare that an old table, or a column, has no place on the other side; MigrationError without a reason."""
        what = f"The old table {table}" if column is None else f"The column {table}.{column}"
        if not because.strip():
            raise MigrationError(f"{what} is retired without a reason.", "Say why in because=.")
        if column is None:
            self.retired[table] = because
        else:
            self.retired_columns.setdefault(table, {})[column] = because

    def of(self, direction: Direction) -> list[Transform]:
        """The transforms of one direction, in the order of their declaration."""
        return [each for each in self.transforms if each.direction == direction]

    def folder(self) -> Path:
        """The SQL folder. Raises MigrationError when nobody has named it."""
        if self.sql is None:
            raise MigrationError(f"The migration {self.name} has no SQL folder.", "Pass sql= to Migration.")
        return self.sql

    def query_text(self, query: Query) -> str:
        """The SELECT of a query. Raises MigrationError when its file cannot be read."""
        return self._text(query.sql, "query")

    def select_text(self, select: Select) -> str:
        """The SELECT of an SQL transform. Raises MigrationError when its file cannot be read."""
        return self._text(select.text, "transform")

    def _text(self, text: str, what: str) -> str:
        if is_file(text):
            path = self.folder() / text
            try:
                text = path.read_text(encoding="utf-8")
            except OSError as error:
                raise MigrationError(f"The {what} file {path} cannot be read: {error.strerror}.") from error
        return f"{text.strip().rstrip(';')}\n"  # it is put into another SELECT: a comment in its last line must end

    def _select(
        self, direction: Direction, source: str | Query, into: str, select: Select, key: str | None, name: str | None
    ) -> None:
        if name is None:
            of = source.name if isinstance(source, Query) else source
            name = PurePath(select.text).stem if is_file(select.text) else f"{of}_into_{into}"
        self._declare(direction, source, into, None if key is None else SelectedKey(text=key), name)(select)

    def _carry(self, direction: Direction, name: str, schema: str, table: str, into: str, carrying: Carrying) -> None:
        source: str | Query = table
        if carrying.using:  # what an expression gives, Python must not imitate: the server reads the row again
            source = Query(carrying.query(schema, table), key=(), depends_on={table: ()}, copied=table)
        self._declare(direction, source, into, None, name)(carrying)

    def _refuse_second_copy(self, copy: Copy) -> None:
        if (self.old, copy.source) == (self.new, copy.into):
            raise MigrationError(f"The table {copy.source} is copied onto itself.", "Name another table in into=.")
        for each in self.copies:
            if each.source == copy.source and each.into == copy.into:
                raise MigrationError(f"The copy of {copy.source} into {copy.into} is declared twice.", "Take one out.")
            if copy.way_back and each.way_back and (each.source == copy.source or each.into == copy.into):
                raise MigrationError(
                    f"The copies of {each.source} into {each.into} and of {copy.source} into {copy.into} would write "
                    "the same rows on the way back.",
                    "Pass way_back=False to both, and write the reverse transforms.",
                )

    def _declare(
        self, direction: Direction, source: str | Query, into: str, key: KeyFunction | None, name: str | None
    ) -> Callable[[F], F]:
        def declare(function: F) -> F:
            declared = Transform(
                name=name or function.__name__,
                direction=direction,
                source=source,
                into=into,
                key=key,
                function=function,
            )
            self._refuse_double(declared)
            self.transforms.append(declared)
            return function

        return declare

    def _refuse_double(self, declared: Transform) -> None:
        if any(each.name == declared.name for each in self.of(declared.direction)):
            raise MigrationError(
                f"Two {declared.direction} transforms are named {declared.name}.", "Give one of them another name=."
            )


def as_rows(result: NewRows) -> Iterable[dict[str, Any]]:
    """What a transform returned, as rows."""
    if result is None:
        return ()
    return result if isinstance(result, list) else (result,)
