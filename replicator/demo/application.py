"""What the demo's application can do, whichever schema it works on. Keys are spelt as the old schema has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import psycopg

from replicator.errors import ReplicatorError
from replicator.migration import Migration

Connection = psycopg.Connection[Any]
Cursor = psycopg.Cursor[Any]

Place = tuple[str, str]
"""An old table, and a key of it as the old schema spells it."""

Found = dict[Place, str]
"""The version that one side holds, for each key that is there."""


class MissingRowError(ReplicatorError):
    """A row that was written, and acknowledged, is not there."""

    kind = "missing_row"


@dataclass(frozen=True, kw_only=True)
class Song:
    """What a guest asks for."""

    uri: str
    name: str
    artist: str
    album: str | None
    cover: str | None
    milliseconds: int


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A guest's request."""

    id: str
    guest: str
    song: Song
    address: str


class Application(Protocol):
    """One operation a method; several of them may share a transaction. Raises MissingRowError."""

    schema: ClassVar[str]
    tables: ClassVar[frozenset[str]]
    """The old tables that this application still writes to, in whatever form they have become."""
    versions: ClassVar[Mapping[str, str]]
    """For each of them a query that gives key and version of every row."""

    def spelling(self, table: str, key: str) -> str:
        """The key as this schema spells it."""

    def ask(self, ask: Ask) -> None:
        """A guest asks for a song."""

    def review(self, request: str, status: str, guest: str) -> None:
        """Somebody decides on a request, or it is played."""

    def correct(self, request: str, guest: str) -> None:
        """A guest goes by another name."""

    def renumber(self, request: str, other: str) -> None:
        """A request gets another id."""

    def withdraw(self, request: str) -> None:
        """A guest takes a request back."""

    def set(self, key: str, value: str) -> None:
        """Set a setting."""

    def unset(self, key: str) -> None:
        """Remove a setting."""

    def announce(self, title: str, requests_page: bool, display_page: bool) -> None:
        """Change the event."""

    def hire(self, admin: str, username: str, password_hash: str) -> None:
        """Add an admin."""

    def log_in(self, admin: str, password_hash: str) -> None:
        """An admin logs in, and the password is hashed anew."""

    def activate(self, admin: str, active: bool, password_hash: str) -> None:
        """Let an admin in, or no longer; the first active one runs the event and owns the Spotify tokens."""

    def rename(self, admin: str, other: str) -> None:
        """An admin who does not run the event gets another id."""

    def dismiss(self, admin: str) -> None:
        """Remove an admin who does not run the event."""

    def refresh(self, token: str) -> None:
        """Spotify gives new tokens."""

    def log_out(self) -> None:
        """Forget Spotify's tokens."""

    def notify(self, notification: str, kind: str, message: str) -> None:
        """Leave a message for a guest."""

    def forget(self, notification: str) -> None:
        """Remove one that was shown."""

    def begin_login(self, state: str, verifier: str) -> None:
        """Somebody begins to log in at Spotify."""

    def end_login(self, state: str) -> None:
        """And comes back from there."""


def one(cursor: Cursor, what: str) -> None:
    """Make sure that a statement has written one row."""
    if cursor.rowcount != 1:
        raise MissingRowError(f"A write to {what} found {cursor.rowcount} rows, not the one that was acknowledged.")


def found(connection: Connection, application: Application) -> Found:
    """Every version that this side holds, by the key as this schema spells it."""
    held: Found = {}
    for table, query in application.versions.items():
        held.update({(table, key): version for key, version in connection.execute(query.encode())})
    return held


class Ids:
    """How the new schema spells the old ids: as the ``key=`` of the migration's own transforms says."""

    def __init__(self, migration: Migration) -> None:
        self._keys = {
            each.into: each.key for each in migration.of("forward") if each.key is not None and each.source == each.into
        }

    def new(self, table: str, old: str) -> str:
        """The new spelling of an old id; a UUID is its own. Other tables' keys stay as they are."""
        return str(self._keys[table]({"id": old})) if table in self._keys else old
