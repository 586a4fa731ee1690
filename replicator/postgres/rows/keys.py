"""Keys as the server has them: selected in their form, and asked for where Python does not know it."""

from collections.abc import Iterable, Sequence
from typing import Literal

from psycopg import sql

from replicator.core.equality import Form, formed, needs_asking, written_as
from replicator.core.tables import Column, Key, Table, printed_key
from replicator.errors import RowError
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.texts import read, read_as
from replicator.postgres.session.connect import Connection, beside_parameters, comma, identifier, translated

Known = dict[tuple[str, str], str | None]
"""By cast and text, the form; None for what is no value of the type."""


def form_of(column: Column, value: sql.Composable) -> sql.Composed:
    """SQL: what a value of a column's type is brought to, before ``Form.of``."""
    match column.form.asked:
        case "folded":
            return sql.SQL('pg_catalog.lower(({})::pg_catalog.text COLLATE pg_catalog."default")').format(value)
        case "justified":
            return sql.SQL("pg_catalog.justify_interval({})::pg_catalog.text").format(value)
        case _:  # not as its cast to text prints it: of inet, and of char(n), that is another
            return sql.SQL("pg_catalog.format('%s', {})").format(value)


def key_of_row(table: Table, alias: Literal["t", "s"] | None) -> sql.Composed:
    """SQL: the primary key's columns of a row, to be read with ``read_key``."""
    parts = [(alias, name) if alias else (name,) for name in table.key]
    return comma([
        form_of(table.by_name[name], identifier(*part)) for name, part in zip(table.key, parts, strict=True)
    ])  # fmt: skip


def read_key(table: Table, texts: Sequence[str]) -> Key:
    """A primary key that was selected so. It cannot be NULL."""
    return printed_key(texts, table.key, table.by_name) or ()


class Asked:
    """The forms of some texts, as a server has given them."""

    def __init__(self) -> None:
        self._known: Known = {}

    async def ask(self, connection: Connection, column: Column, texts: Iterable[str]) -> None:
        """Ask for what is not known yet."""
        cast = column.form.cast
        unknown = [text for text in dict.fromkeys(texts) if (cast, text) not in self._known]
        if unknown:
            found = await _ask(connection, column, unknown)
            self._known.update({(cast, text): form for text, form in zip(unknown, found, strict=True)})

    def of(self, column: Column, text: str) -> str | None:
        """The form of a text that has been asked for, or that needs no asking; None: it is no value of the type."""
        asked = column.form.asked or (column.form.cast, text) in self._known
        answer = self._known[column.form.cast, text] if asked else text
        return None if answer is None else formed(column.form, answer)

    def led_to(self, forms: Sequence[Form], columns: Sequence[Column], texts: Sequence[str | None]) -> Key | None:
        """The key that printed values of other columns lead to; None where one is NULL, or no value of the type.

        A number beyond the type's range is none: no row can have it, and the server would refuse to look for it.
        """
        parts: list[str] = []
        for given, form, column in zip(texts, forms, columns, strict=True):
            written = None if given is None else written_as(given, form, column.form)
            if written is not None and needs_asking(form, column.form):
                written = self.of(column, written)
            elif written is not None:
                written = formed(column.form, written)
            if written is not None and (form.base == column.form.base or column.form.holds(written)):
                parts.append(written)
        return tuple(parts) if len(parts) == len(columns) else None

    def key(self, columns: Iterable[Column], spelt: Key) -> Key:
        """A key in its form. Raises ValueError when it holds what is no value of its column's type."""
        key = self.key_or_none(columns, spelt)
        if key is None:
            raise ValueError("no value of the type")
        return key

    def key_or_none(self, columns: Iterable[Column], spelt: Key) -> Key | None:
        """The same; None when it holds such a thing: no row has that key."""
        parts = tuple(form for column, text in zip(columns, spelt, strict=True)
                      if (form := self.of(column, text)) is not None)  # fmt: skip
        return parts if len(parts) == len(spelt) else None


async def ask_keys(connection: Connection, columns: Sequence[Column], keys: Iterable[Key]) -> Asked:
    """Ask for the forms of keys as somebody has spelt them."""
    asked, listed = Asked(), list(keys)
    for place, column in enumerate(columns):
        if column.form.asked:
            await asked.ask(connection, column, [key[place] for key in listed])
    return asked


async def _ask(connection: Connection, column: Column, texts: Sequence[str]) -> list[str | None]:
    """Halved until what is no value of the type stands alone."""
    value = read_as(sql.SQL("k.text"), column.form.cast)
    query = sql.SQL("SELECT {} FROM pg_catalog.unnest(%s::pg_catalog.text[]) WITH ORDINALITY AS k(text, place) "
                    "ORDER BY k.place").format(beside_parameters(form_of(column, value)))  # fmt: skip
    try:
        with refusing():
            async with connection.transaction():
                cursor = await connection.execute(query, (list(texts),))
                return [row[0] for row in await cursor.fetchall()]
    except RowError:
        with translated():
            await connection.execute(query, ([],))  # raises what needs no text: else all would be no values
        if len(texts) == 1:
            return [None]
    middle = len(texts) // 2
    return [*await _ask(connection, column, texts[:middle]), *await _ask(connection, column, texts[middle:])]


async def is_key(connection: Connection, columns: Sequence[Column], key: Key) -> bool:
    """Whether each part of a key is a value of its column's type, as keys are read; else no row can have it."""
    names = [f"k{place}" for place in range(len(columns))]
    values = [beside_parameters(read(identifier("k", name), each)) for name, each in zip(names, columns, strict=True)]
    texts = sql.SQL(", ").join([sql.SQL("%s::pg_catalog.text")] * len(columns))
    query = sql.SQL("SELECT {} FROM (VALUES ({})) AS k({})").format(
        comma(values), texts, comma([identifier(name) for name in names])
    )
    try:
        with refusing():
            async with connection.transaction():
                await connection.execute(query, list(key))
    except RowError:
        return False
    return True


def to_ask(form: Form, column: Column, texts: Iterable[str | None]) -> list[str]:
    """What the server must be asked to know the forms that values of one column have among those of another."""
    if not needs_asking(form, column.form):
        return []
    written = (written_as(text, form, column.form) for text in texts if text is not None)
    return [each for each in written if each is not None]
