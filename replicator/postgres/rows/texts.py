"""SQL that turns values into text and back as the server prints and reads them, whoever owns their type.

``value::text`` and ``text::type`` take a cast where there is one, and who owns an enum, a composite or a range may make
one with a function of their own: it would run with our role's rights.
"""

from psycopg import sql

from replicator.core.tables import Column

FIRST_OF_USERS = 16384
"""Types of Postgres' own have lower oids."""


def shown(value: sql.Composable, column: Column) -> sql.Composed:
    """The text that the type's output function gives; NULL for NULL."""
    if column.type_oid < FIRST_OF_USERS:
        return sql.SQL("{}::text").format(value)
    return sql.SQL("CASE WHEN num_nulls({0}) = 0 THEN concat({0}) END").format(value)


def read(text: sql.Composable, column: Column) -> sql.Composed:
    """The value that the type's input function reads from a text, without the column's modifier."""
    return read_as(text, column.bare_type)


def read_as(text: sql.Composable, type_name: str) -> sql.Composed:
    """The same, of a type by its name, which has a schema unless the type is one of Postgres' own.

    Casts can be made by a type's owner, to its arrays and from ``text[]`` too. JSON is read without looking for one.
    """
    if "." not in type_name:
        return sql.SQL("({})::{}").format(text, sql.SQL(type_name))
    return sql.SQL(
        "(SELECT r.v FROM pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object('v', ({})::text)) AS r(v {}))"
    ).format(text, sql.SQL(type_name))


def brought_to(value: sql.Composable, type_name: str) -> sql.Composed:
    """A value of whatever type as one of this type: by way of its text, where others may have made a cast."""
    if "." not in type_name:
        return sql.SQL("{}::{}").format(value, sql.SQL(type_name))
    return read_as(sql.SQL("CASE WHEN num_nulls({0}) = 0 THEN concat({0}) END").format(value), type_name)
