"""Connections of the demo's own programs, with the same settings as the daemon's."""

from typing import Any

import psycopg
from psycopg.rows import RowFactory, tuple_row

from replicator.postgres.session.pins import pin_blocking


def connect(dsn: str, purpose: str = "demo", *, row_factory: RowFactory[Any] = tuple_row) -> psycopg.Connection[Any]:
    """A connection in autocommit mode. Raises psycopg.Error, and CheckError for a setting that does not hold."""
    connection = psycopg.connect(dsn, autocommit=True, row_factory=row_factory, application_name=purpose)
    try:
        pin_blocking(connection)
    except BaseException:
        connection.close()
        raise
    return connection
