"""What is said when Postgres refuses SQL of the migration's author: mostly a name without its schema."""

from typing import Final

import psycopg

from replicator.postgres.session.wording import said

UNKNOWN: Final = frozenset({"42P01", "42704", "42883", "3F000"})
"""A table, a type, a function or an operator, or a schema that is not found."""

WITH_SCHEMA: Final = (
    "Names are looked up in pg_catalog only. Write each table, type and function with its schema, as in "
    "public.customers, and each operator of an extension's type as in OPERATOR(public.=)."
)


def names_unknown(error: BaseException) -> bool:
    """Whether Postgres does not find what such SQL names."""
    return isinstance(error.__cause__, psycopg.Error) and error.__cause__.sqlstate in UNKNOWN


def refused(error: BaseException, otherwise: str = "") -> tuple[str, str]:
    """What is wrong with such SQL, and what to do.

    :param error: one of ours, for one of psycopg's.
    :param otherwise: what to do where it is nothing that a schema would mend.
    """
    cause = error.__cause__
    primary = said(cause) if isinstance(cause, psycopg.Error) else None
    problem = getattr(error, "problem", None) or str(error)
    if not isinstance(cause, psycopg.Error) or not primary:
        return problem, getattr(error, "remedy", "") or otherwise
    if cause.sqlstate in UNKNOWN or (cause.sqlstate == "42501" and '"pg_catalog.' in primary):
        return f"Postgres says: {primary}.", WITH_SCHEMA
    return problem, otherwise or getattr(error, "remedy", "")
