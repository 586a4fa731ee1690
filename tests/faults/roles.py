"""The roles of a run, as the README makes them: the daemon is no superuser, and the application owns the old tables."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import psycopg

from tests.fix_postgres import Database, Server, _up

EVERYWHERE: Final = """
CREATE ROLE {app} LOGIN;
CREATE ROLE {daemon} LOGIN REPLICATION;
GRANT {app} TO {daemon};
GRANT pg_read_all_stats TO {daemon};
"""
IN_A_DATABASE: Final = """
GRANT CREATE ON DATABASE {database} TO {daemon};
GRANT CREATE, USAGE ON SCHEMA public TO {app};
GRANT CREATE ON SCHEMA public TO {daemon};
CREATE SCHEMA party AUTHORIZATION {daemon};
CREATE SCHEMA _replicator AUTHORIZATION {daemon};
CREATE SCHEMA replicator AUTHORIZATION {daemon};
GRANT USAGE ON SCHEMA replicator TO PUBLIC;
GRANT USAGE ON SCHEMA party TO {app};
ALTER DEFAULT PRIVILEGES FOR ROLE {daemon} IN SCHEMA party GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {app};
ALTER DEFAULT PRIVILEGES FOR ROLE {daemon} IN SCHEMA party GRANT USAGE ON SEQUENCES TO {app};
GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text), pg_replication_origin_drop(text),
    pg_replication_origin_oid(text), pg_replication_origin_session_setup(text),
    pg_replication_origin_session_reset() TO {daemon};
CREATE SCHEMA harness AUTHORIZATION {app};
"""


@dataclass(frozen=True)
class Roles:
    """Their names; a server has one set for each run."""

    app: str
    daemon: str

    def grant(self, database: Database) -> None:
        """Let them be in a database what the README says."""
        with database.connect() as opened:
            made = IN_A_DATABASE.format(app=self.app, daemon=self.daemon, database=database.name)
            opened.execute(made.encode())


def dsn_of(role: str, dsn: str) -> str:
    """How a role connects where the superuser does with this DSN."""
    assert "//postgres@" in dsn, "these are clusters of our own"
    return dsn.replace("//postgres@", f"//{role}@")


@contextlib.contextmanager
def roles_on(server: Server) -> Iterator[Roles]:
    """Make them; the databases in which they own something must be gone at the end."""
    name = uuid.uuid4().hex[:12]
    made = Roles(f"app_{name}", f"daemon_{name}")
    with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
        admin.execute(EVERYWHERE.format(app=made.app, daemon=made.daemon).encode())
    yield made
    _up(server)
    with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
        admin.execute(f"DROP ROLE {made.daemon}, {made.app}".encode())
