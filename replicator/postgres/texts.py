"""SQL that turns values into text and back as the server prints and reads them, whoever owns their type.

``value::text`` and ``text::type`` take a cast where there is one, and who owns an enum, a composite or a range may make
one with a function of their own: it would run with our role's rights.
"""

from psycopg import sql

from replicator.tables import Column

FIRST_OF_USERS = 16384
"""Types of Postgres' own have lower oids."""


def shown(value: sql.Composable, column: Column) -> sql.Composed:
    """The text that the type's output function gives; NULL for NULL."""
    if column.type_oid < FIRST_OF_USERS:
        return sql.SQL("{}::text").format(value)
    return sql.SQL("CASE WHEN num_nulls({0}) = 0 THEN concat({0}) END").format(value)


def read(text: sql.Composable, column: Column) -> sql.Composed:
    """The value that the type's input function reads from a text, without the column's modifier."""
    if column.type_oid < FIRST_OF_USERS or column.kind == "array":
        return sql.SQL("({})::{}").format(text, sql.SQL(column.bare_type))
    # From text to an array no cast can be made: so the elements are read.
    return sql.SQL("((ARRAY[{}]::text[])::text::{}[])[1]").format(text, sql.SQL(column.bare_type))
