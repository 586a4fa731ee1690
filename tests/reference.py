"""Rows for the old tables of the reference migration."""

from tests.engine import create_old_tables, execute


def seed(dsn: str, requests: int = 300) -> None:
    create_old_tables(dsn)
    execute(
        dsn,
        [
            "INSERT INTO requests (id, track_uri, track_name, artist_name, duration_ms, requester_ip_hash) "
            f"SELECT 'r' || i, 'uri' || i, 'track', 'artist', i, 'hash' FROM generate_series(1, {requests}) i",
            "INSERT INTO settings VALUES ('party_name', 'one'), ('target_device_id', 'd1')",
            "INSERT INTO admins (id, username, password_hash) VALUES ('a1', 'ann', 'x'), ('a2', 'bob', 'y')",
            "INSERT INTO event_settings (id, event_title) VALUES (1, 'party')",
            "INSERT INTO spotify_auth (id, access_token) VALUES (1, 'secret')",
        ],
    )


NEW_REQUEST = (
    "INSERT INTO requests (id, track_uri, track_name, artist_name, duration_ms, requester_ip_hash) "
    "VALUES ('{}', 'u', 'n', 'a', 1, 'h')"
)
