"""Statements that a test runs by itself, and questions about a database."""

from typing import Any, Final

import psycopg

SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"

ORIGINS: Final = (
    "pg_replication_origin_create(text)", "pg_replication_origin_drop(text)", "pg_replication_origin_oid(text)",
    "pg_replication_origin_session_setup(text)", "pg_replication_origin_session_reset()",
)  # fmt: skip

OURS: Final = "SELECT oid FROM pg_namespace WHERE nspname IN ('_replicator', 'replicator')"

ENABLED: Final = (
    "SELECT string_agg(tgname || tgenabled::text, ',' ORDER BY tgname) FROM pg_trigger t "
    "WHERE tgrelid = to_regclass('{}') AND NOT tgisinternal AND tgname NOT LIKE 'replicator%'"
)

NAMES = """
    SELECT array_agg(format('%s %s.%s', kind, n.nspname, name) ORDER BY kind, n.nspname, name) FROM (
        SELECT relkind::text AS kind, relnamespace AS namespace, relname AS name FROM pg_class
        UNION SELECT 'constraint', connamespace, conname FROM pg_constraint
        UNION SELECT 'type', typnamespace, typname FROM pg_type
    ) AS o JOIN pg_namespace n ON n.oid = o.namespace WHERE n.nspname IN ('public', 'shop')
"""


def one(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as opened:
        row = opened.execute(query.encode()).fetchone()
        return row[0] if row else None


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as opened:
        return opened.execute(query.encode()).fetchall()


def each_alone(dsn: str, statements: tuple[str, ...]) -> None:
    """Run statements, as a person at psql would."""
    with psycopg.connect(dsn, autocommit=True) as opened:
        for statement in statements:
            opened.execute(statement.encode())


def refused(dsn: str, statement: str) -> bool:
    """Whether the guard refuses a statement."""
    with psycopg.connect(dsn) as opened:
        try:
            opened.execute(statement.encode())
        except psycopg.Error as error:
            if error.sqlstate != "RP002":
                raise
            return True
    return False


def refusal(connected: "psycopg.Connection[Any]", statement: str) -> str | None:
    """The SQLSTATE with which a statement is refused; nothing of it stays in any case."""
    try:
        with connected.transaction(force_rollback=True):
            connected.execute(statement.encode())
    except psycopg.Error as error:
        return error.sqlstate
    return None
