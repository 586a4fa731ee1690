"""The roles that the README makes, and one that has nothing but what PUBLIC has; and a migration of one small table."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from replicator import Migration, Row
from replicator.settings import Settings
from tests.engine import make_settings
from tests.fix_postgres import Database

NEW = "CREATE SCHEMA IF NOT EXISTS shop; CREATE TABLE IF NOT EXISTS shop.t (id integer PRIMARY KEY, v text);"
OLD = "CREATE TABLE public.t (id integer PRIMARY KEY, v text)"


@dataclass(frozen=True)
class Roles:
    """A database with the README's roles: none of them is a superuser."""

    database: Database
    replicator: str
    """Runs the daemon; acts for ``app``."""
    app: str
    """Owns the old tables, and may write to the new ones."""
    stranger: str
    """May connect."""

    def dsn(self, role: str) -> str:
        return make_conninfo(self.database.dsn, user=role, password="secret")

    def connect(self, role: str) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.dsn(role), autocommit=True)

    def superuser(self, *statements: str) -> None:
        with self.database.connect() as opened:
            for each in statements:
                opened.execute(each.encode())

    def settings(self, **others: Any) -> Settings:
        made = make_settings(self.database, **others)
        return made.model_copy(
            update={
                "source_dsn": type(made.source_dsn)(self.dsn(self.replicator)),
                "target_dsn": type(made.source_dsn)(self.dsn(self.replicator)),
            }
        )


@contextlib.contextmanager
def readme_roles(database: Database, *old_tables: str) -> Iterator[Roles]:
    """The roles, as README, Roles, makes them; ``app`` makes the old tables."""
    made = Roles(database, f"{database.name}_replicator", f"{database.name}_app", f"{database.name}_stranger")
    try:
        made.superuser(
            f"CREATE ROLE {made.app} LOGIN PASSWORD 'secret'",
            f"CREATE ROLE {made.stranger} LOGIN PASSWORD 'secret'",
            f"CREATE ROLE {made.replicator} LOGIN REPLICATION PASSWORD 'secret'",
            f"GRANT {made.app} TO {made.replicator}",
            f"GRANT CREATE ON DATABASE {database.name} TO {made.replicator}",
            f"GRANT pg_read_all_stats TO {made.replicator}",
            f"GRANT CREATE, USAGE ON SCHEMA public TO {made.app}",
            f"CREATE SCHEMA shop AUTHORIZATION {made.replicator}",
            f"GRANT USAGE ON SCHEMA shop TO {made.app}",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {made.replicator} IN SCHEMA shop "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {made.app}",
        )
        with made.connect(made.app) as app:
            for each in old_tables or (OLD,):
                app.execute(each.encode())
        yield made
    finally:
        with contextlib.suppress(psycopg.Error):
            made.superuser(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid()"
            )
        made.superuser(*(f"DROP OWNED BY {role} CASCADE" for role in (made.replicator, made.app, made.stranger)))
        made.superuser(*(f"DROP ROLE {role}" for role in (made.replicator, made.app, made.stranger)))


def identity(folder: Path, ddl: str = NEW, tables: tuple[str, ...] = ("t",)) -> Migration:
    """Each table as it is, from ``public`` to ``shop`` and back."""
    (folder / "new").mkdir(parents=True, exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(ddl)
    migration = Migration("identity", old="public", new="shop", sql=folder)

    def same(row: Row) -> dict[str, Any]:
        return dict(row)

    for table in tables:
        migration.transform(source=table, into=table, key=lambda row: row["id"])(_named(same, f"forward_{table}"))
        migration.reverse(source=table, into=table, key=lambda row: row["id"])(_named(same, f"back_{table}"))
    return migration


def _named(function: Any, name: str) -> Any:
    def copy(row: Row) -> dict[str, Any]:
        made: dict[str, Any] = function(row)
        return made

    copy.__name__ = copy.__qualname__ = name
    return copy
