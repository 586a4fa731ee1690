"""The application as it is after the cutover: on the new schema's four tables, by the documentation's rules."""

from collections.abc import Mapping
from typing import ClassVar, Final

from psycopg.types.json import Jsonb

from replicator.demo.application import Ask, Connection, Ids, one

STATUSES: Final = {"queued": "approved", "failed": "rejected"}
"""What the statuses that are no more have become."""


class NewApplication:
    """See ``Application``."""

    schema: ClassVar[str] = "party"
    versions: ClassVar[Mapping[str, str]] = {
        "requests": "SELECT id::text, submitted_by FROM party.requests",
        "settings": "SELECT each.key, each.value FROM party.events, jsonb_each_text(config -> 'settings') AS each",
        "admins": "SELECT id::text, password_hash FROM party.admins",
        "event_settings": "SELECT '1', config ->> 'event_title' FROM party.events",
        "spotify_auth": "SELECT '1', access_token FROM party.events JOIN party.spotify_tokens"
        " ON admin_id = active_admin_id",
    }
    tables: ClassVar[frozenset[str]] = frozenset(versions)

    def __init__(self, connection: Connection, ids: Ids) -> None:
        self._execute = connection.execute
        self._ids = ids

    def spelling(self, table: str, key: str) -> str:
        """Old ids that were no UUIDs are others now."""
        return self._ids.new(table, key)

    # ---- requests

    def ask(self, ask: Ask) -> None:
        """A guest asks for a song."""
        song = ask.song
        track = {
            "id": song.uri,
            "uri": song.uri,
            "name": song.name,
            "artists": [{"name": song.artist}],
            "album": {"name": song.album, "images": [{"url": song.cover}] if song.cover else []},
            "duration_ms": song.milliseconds,
        }
        one(
            self._execute(
                "INSERT INTO party.requests (id, event_id, track_id, track_data, submitted_by, status, idempotency_key)"
                " SELECT %s, id, %s, %s, %s, 'pending', %s FROM party.events",
                (self._ids.new("requests", ask.id), song.uri, Jsonb(track), ask.guest, ask.address),
            ),
            "the event",
        )

    def review(self, request: str, status: str, guest: str) -> None:
        """Somebody decides on a request, or it is played."""
        one(
            self._execute(
                "UPDATE party.requests SET status = %(status)s, submitted_by = %(guest)s,"
                " approved_at = CASE WHEN %(status)s IN ('approved', 'played') THEN coalesce(approved_at, now()) END,"
                " rejected_at = CASE WHEN %(status)s = 'rejected' THEN now() END,"
                " played_at = CASE WHEN %(status)s = 'played' THEN now() END WHERE id = %(id)s",
                {
                    "id": self._ids.new("requests", request),
                    "status": STATUSES.get(status, status),
                    "guest": guest,
                },
            ),
            f"the request {request}",
        )

    def correct(self, request: str, guest: str) -> None:
        """A guest goes by another name."""
        one(
            self._execute(
                "UPDATE party.requests SET submitted_by = %s WHERE id = %s",
                (guest, self._ids.new("requests", request)),
            ),
            f"the request {request}",
        )

    def renumber(self, request: str, other: str) -> None:
        """A request gets another id."""
        one(
            self._execute(
                "UPDATE party.requests SET id = %s WHERE id = %s",
                (self._ids.new("requests", other), self._ids.new("requests", request)),
            ),
            f"the request {request}",
        )

    def withdraw(self, request: str) -> None:
        """A guest takes a request back."""
        one(
            self._execute("DELETE FROM party.requests WHERE id = %s", (self._ids.new("requests", request),)),
            f"the request {request}",
        )

    # ---- settings and the event

    def set(self, key: str, value: str) -> None:
        """Set a setting; the device has a column of its own besides."""
        device = value if key == "target_device_id" else None
        one(
            self._execute(
                "UPDATE party.events SET config = jsonb_set(config, ARRAY['settings', %s], %s),"
                " device_id = coalesce(%s, device_id), version = version + 1, updated_at = now()",
                (key, Jsonb(value), device),
            ),
            "the event",
        )

    def unset(self, key: str) -> None:
        """Remove a setting."""
        one(
            self._execute(
                "UPDATE party.events SET config = config #- ARRAY['settings', %(key)s], version = version + 1,"
                " updated_at = now() WHERE config -> 'settings' ? %(key)s",
                {"key": key},
            ),
            f"the setting {key}",
        )

    def announce(self, title: str, requests_page: bool, display_page: bool) -> None:
        """Change the event; its status says what the two page switches say together."""
        status = {(True, True): "live", (False, False): "offline"}.get((requests_page, display_page), "standby")
        pages = {"requests": requests_page, "display": display_page}
        one(
            self._execute(
                "UPDATE party.events SET config = config || %s, status = %s, version = version + 1, updated_at = now()",
                (Jsonb({"event_title": title, "pages_enabled": pages}), status),
            ),
            "the event",
        )

    # ---- admins and Spotify

    def hire(self, admin: str, username: str, password_hash: str) -> None:
        """Add an admin."""
        self._execute(
            "INSERT INTO party.admins (id, email, name, password_hash) VALUES (%s, %s, %s, %s)",
            (self._ids.new("admins", admin), username, username, password_hash),
        )

    def log_in(self, admin: str, password_hash: str) -> None:
        """An admin logs in, and the password is hashed anew."""
        one(
            self._execute(
                "UPDATE party.admins SET password_hash = %s, last_login = now() WHERE id = %s",
                (password_hash, self._ids.new("admins", admin)),
            ),
            f"the admin {admin}",
        )

    def activate(self, admin: str, active: bool, password_hash: str) -> None:
        """Who runs the event is said there, so that is handed over too, and Spotify's tokens with it."""
        one(
            self._execute(
                "UPDATE party.admins SET is_active = %s, password_hash = %s WHERE id = %s",
                (active, password_hash, self._ids.new("admins", admin)),
            ),
            f"the admin {admin}",
        )
        one(
            self._execute(
                "WITH first AS (SELECT id FROM party.admins WHERE is_active ORDER BY created_at, id LIMIT 1),"
                " before AS (SELECT id, active_admin_id FROM party.events FOR UPDATE),"
                " moved AS (UPDATE party.spotify_tokens SET admin_id = first.id FROM first, before"
                " WHERE admin_id = before.active_admin_id)"
                " UPDATE party.events AS event SET active_admin_id = first.id, version = version + 1,"
                " updated_at = now() FROM first, before WHERE event.id = before.id"
            ),
            "the event",
        )

    def rename(self, admin: str, other: str) -> None:
        """An admin who does not run the event gets another id."""
        one(
            self._execute(
                "UPDATE party.admins SET id = %s WHERE id = %s",
                (self._ids.new("admins", other), self._ids.new("admins", admin)),
            ),
            f"the admin {admin}",
        )

    def dismiss(self, admin: str) -> None:
        """Remove an admin who does not run the event."""
        one(
            self._execute("DELETE FROM party.admins WHERE id = %s", (self._ids.new("admins", admin),)),
            f"the admin {admin}",
        )

    def refresh(self, token: str) -> None:
        """Spotify gives new tokens, to whoever runs the event."""
        one(
            self._execute(
                "INSERT INTO party.spotify_tokens"
                " (admin_id, access_token, refresh_token, scope, token_type, expires_at)"
                " SELECT active_admin_id, %s, %s, 'playlist-modify', 'Bearer', now() + interval '1 hour'"
                " FROM party.events ON CONFLICT (admin_id) DO UPDATE"
                " SET access_token = EXCLUDED.access_token, expires_at = EXCLUDED.expires_at, updated_at = now()",
                (token, f"refresh of {token}"),
            ),
            "the tokens",
        )

    def log_out(self) -> None:
        """Forget Spotify's tokens."""
        one(
            self._execute("DELETE FROM party.spotify_tokens USING party.events WHERE admin_id = active_admin_id"),
            "the tokens",
        )

    # ---- what this schema has no place for: notifications follow from the requests, logins are kept in a cookie

    def notify(self, notification: str, kind: str, message: str) -> None:
        """Nothing to write."""

    def forget(self, notification: str) -> None:
        """Nothing to write."""

    def begin_login(self, state: str, verifier: str) -> None:
        """Nothing to write."""

    def end_login(self, state: str) -> None:
        """Nothing to write."""
