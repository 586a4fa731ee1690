"""The application as it was: on the old schema's seven tables."""

from collections.abc import Mapping
from typing import ClassVar, Final

from replicator.demo.application import Ask, Connection, one

UTC: Final = "timezone('utc', clock_timestamp())"


class OldApplication:
    """See ``Application``."""

    schema: ClassVar[str] = "public"
    versions: ClassVar[Mapping[str, str]] = {
        "requests": "SELECT id, coalesce(requester_nickname, 'Anonymous') FROM public.requests",
        "settings": "SELECT key, value FROM public.settings",
        "admins": "SELECT id, password_hash FROM public.admins",
        "event_settings": "SELECT id::text, event_title FROM public.event_settings",
        "spotify_auth": "SELECT id::text, access_token FROM public.spotify_auth",
        "notifications": "SELECT id, message FROM public.notifications",
        "oauth_sessions": "SELECT state, code_verifier FROM public.oauth_sessions",
    }
    tables: ClassVar[frozenset[str]] = frozenset(versions)

    def __init__(self, connection: Connection) -> None:
        self._execute = connection.execute

    def spelling(self, _table: str, key: str) -> str:
        """Keys are spelt the old way everywhere in the demo."""
        return key

    # ---- requests

    def ask(self, ask: Ask) -> None:
        """A guest asks for a song."""
        song = ask.song
        self._execute(
            "INSERT INTO public.requests (id, track_uri, track_name, artist_name, album_name, album_image_url,"
            " duration_ms, requester_ip_hash, requester_nickname, user_session_id)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, md5(%s))",
            (ask.id, song.uri, song.name, song.artist, song.album, song.cover, song.milliseconds, ask.address,
             ask.guest, ask.address),
        )  # fmt: skip

    def review(self, request: str, status: str, guest: str) -> None:
        """Somebody decides on a request, or it is played."""
        one(
            self._execute(
                "UPDATE public.requests SET status = %(status)s, requester_nickname = %(guest)s, approved_at ="
                f" CASE WHEN %(status)s IN ('approved', 'queued', 'played') THEN coalesce(approved_at, {UTC}) END,"
                " approved_by = 'dj', spotify_added_to_queue = %(status)s IN ('queued', 'played'),"
                " rejection_reason = CASE WHEN %(status)s IN ('rejected', 'failed') THEN 'not tonight' END"
                " WHERE id = %(id)s",
                {"id": request, "status": status, "guest": guest},
            ),
            f"the request {request}",
        )

    def correct(self, request: str, guest: str) -> None:
        """A guest goes by another name."""
        one(
            self._execute("UPDATE public.requests SET requester_nickname = %s WHERE id = %s", (guest, request)),
            f"the request {request}",
        )

    def renumber(self, request: str, other: str) -> None:
        """A request gets another id."""
        one(
            self._execute("UPDATE public.requests SET id = %s WHERE id = %s", (other, request)),
            f"the request {request}",
        )

    def withdraw(self, request: str) -> None:
        """A guest takes a request back."""
        one(self._execute("DELETE FROM public.requests WHERE id = %s", (request,)), f"the request {request}")

    # ---- settings and the event

    def set(self, key: str, value: str) -> None:
        """Set a setting."""
        self._execute(
            "INSERT INTO public.settings (key, value) VALUES (%s, %s)"
            f" ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, updated_at = {UTC}",
            (key, value),
        )

    def unset(self, key: str) -> None:
        """Remove a setting."""
        one(self._execute("DELETE FROM public.settings WHERE key = %s", (key,)), f"the setting {key}")

    def announce(self, title: str, requests_page: bool, display_page: bool) -> None:
        """Change the event."""
        one(
            self._execute(
                "UPDATE public.event_settings SET event_title = %s, requests_page_enabled = %s,"
                f" display_page_enabled = %s, updated_at = {UTC} WHERE id = 1",
                (title, requests_page, display_page),
            ),
            "the event's settings",
        )

    # ---- admins and Spotify

    def hire(self, admin: str, username: str, password_hash: str) -> None:
        """Add an admin."""
        self._execute(
            "INSERT INTO public.admins (id, username, password_hash) VALUES (%s, %s, %s)",
            (admin, username, password_hash),
        )

    def log_in(self, admin: str, password_hash: str) -> None:
        """An admin logs in, and the password is hashed anew."""
        one(
            self._execute(
                f"UPDATE public.admins SET password_hash = %s, last_login = {UTC} WHERE id = %s", (password_hash, admin)
            ),
            f"the admin {admin}",
        )

    def activate(self, admin: str, active: bool, password_hash: str) -> None:
        """Who runs the event follows from who is active: nothing else is to be done."""
        one(
            self._execute(
                "UPDATE public.admins SET is_active = %s, password_hash = %s WHERE id = %s",
                (active, password_hash, admin),
            ),
            f"the admin {admin}",
        )

    def rename(self, admin: str, other: str) -> None:
        """An admin who does not run the event gets another id."""
        one(self._execute("UPDATE public.admins SET id = %s WHERE id = %s", (other, admin)), f"the admin {admin}")

    def dismiss(self, admin: str) -> None:
        """Remove an admin who does not run the event."""
        one(self._execute("DELETE FROM public.admins WHERE id = %s", (admin,)), f"the admin {admin}")

    def refresh(self, token: str) -> None:
        """Spotify gives new tokens."""
        self._execute(
            "INSERT INTO public.spotify_auth (access_token, refresh_token, scope, expires_at)"
            f" VALUES (%s, %s, 'playlist-modify', {UTC} + interval '1 hour') ON CONFLICT (id) DO UPDATE"
            f" SET access_token = EXCLUDED.access_token, expires_at = EXCLUDED.expires_at, updated_at = {UTC}",
            (token, f"refresh of {token}"),
        )

    def log_out(self) -> None:
        """Forget Spotify's tokens."""
        one(self._execute("DELETE FROM public.spotify_auth WHERE id = 1"), "the tokens")

    # ---- what the new schema has no place for

    def notify(self, notification: str, kind: str, message: str) -> None:
        """Leave a message for a guest."""
        self._execute(
            "INSERT INTO public.notifications (id, type, message) VALUES (%s, %s, %s)", (notification, kind, message)
        )

    def forget(self, notification: str) -> None:
        """Remove one that was shown."""
        one(
            self._execute("DELETE FROM public.notifications WHERE id = %s", (notification,)),
            f"the notification {notification}",
        )

    def begin_login(self, state: str, verifier: str) -> None:
        """Somebody begins to log in at Spotify."""
        self._execute("INSERT INTO public.oauth_sessions (state, code_verifier) VALUES (%s, %s)", (state, verifier))

    def end_login(self, state: str) -> None:
        """And comes back from there."""
        one(self._execute("DELETE FROM public.oauth_sessions WHERE state = %s", (state,)), f"the login {state}")
