"""The old schema and what is in it when the demo begins; the same rows every time."""

from pathlib import Path
from typing import Final

from psycopg import Connection

ADMINS: Final = ("dj-anna", "5b9a6c1e-52c4-4f0c-9c35-6f4f1d3c8a01", "Béla ☕")
"""They stay, and the first of them that is active runs the event."""

SETTINGS: Final = {
    "party_playlist_id": "spotify:playlist:37i9dQZF1DX0XUsuxWHRQd",
    "target_device_id": "device 0",
    "party_name": "Sommerfest „Größe zählt nicht“",
    "max_requests_per_ip_per_hour": "10",
    "request_cooldown_seconds": "30",
}

# Nine ids in ten are UUIDs, the rest are what an older release of the application made.
REQUESTS: Final = """
INSERT INTO public.requests
SELECT
    CASE WHEN n %% 10 = 0 THEN 'req_' || n ELSE md5('request ' || n)::uuid::text END,
    'spotify:track:' || md5('track ' || n %% 4000),
    (ARRAY['Blue Monday', 'Jóga', '上を向いて歩こう', 'Ça plane pour moi', 'Don''t Stop', '\\o/ "100%%"'])[n %% 6 + 1],
    (ARRAY['New Order', 'Björk', '坂本九', 'Plastic Bertrand', 'Journey'])[n %% 5 + 1],
    CASE WHEN n %% 7 > 0 THEN 'Album ' || n %% 900 END,
    CASE WHEN n %% 7 > 1 THEN 'https://i.scdn.example/' || md5('cover ' || n %% 900) END,
    150000 + n %% 1000 * 97,
    md5('guest ' || n %% 800),
    CASE WHEN n %% 3 > 0 THEN (ARRAY['Ada', 'Çelik', 'Ωμέγα', '👩‍🎤'])[n %% 4 + 1] || ' ' || n END,
    CASE WHEN n %% 4 > 0 THEN md5('session ' || n %% 800) END,
    status,
    begun + n * interval '337 milliseconds',
    CASE WHEN status IN ('approved', 'queued', 'played') THEN begun + n * interval '338 milliseconds' END,
    CASE WHEN status IN ('approved', 'queued', 'played') THEN 'dj-anna' END,
    CASE WHEN status = 'rejected' THEN 'not tonight' END,
    status IN ('queued', 'played'),
    CASE WHEN n %% 11 > 0 THEN status = 'played' END
FROM generate_series(1, %(rows)s) AS n
CROSS JOIN LATERAL (
    SELECT
        (ARRAY['pending', 'played', 'approved', 'played', 'rejected', 'queued', 'failed', 'played'])[n %% 8 + 1]
            AS status,
        timestamp '2024-05-04 18:00:00' AS begun
) AS given
"""

OTHERS: Final = """
INSERT INTO public.event_settings (
    id, event_title, dj_name, welcome_message, show_qr_code, display_refresh_interval, request_limit, auto_approve,
    requests_page_enabled, display_page_enabled, message_text, message_created_at
) VALUES (
    1, 'Opening night', 'Anna', 'Willkommen!', true, 20, 3, false, true, true, NULL, '2024-05-04 17:59:59.123456'
);
INSERT INTO public.spotify_auth (access_token, refresh_token, expires_at, scope)
VALUES ('token 0', 'refresh of token 0', '2024-05-04 19:00:00', 'playlist-modify');
INSERT INTO public.notifications (id, type, message, shown)
SELECT 'note_' || n, 'approval', 'Your song is next (' || n || ')', true FROM generate_series(1, 500) AS n;
INSERT INTO public.oauth_sessions (state, code_verifier) VALUES ('state 0', 'verifier 0');
ANALYZE public.requests
"""


def seed(connection: Connection[object], sql: Path, rows: int) -> bool:
    """Create the old schema and its rows, in one transaction; gives False when it was there already.

    :param sql: the migration's SQL folder.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('replicator demo'))")
        if connection.execute("SELECT FROM pg_class WHERE oid = to_regclass('public.requests')").rowcount:
            return False
        for file in sorted((sql / "old").glob("*.sql")):
            connection.execute(file.read_bytes())
        connection.execute(REQUESTS, {"rows": rows})
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO public.admins (id, username, password_hash, created_at)"
                " VALUES (%s, %s, 'scrypt 0', timestamp '2024-01-01' + %s * interval '1 day')",
                [(admin, f"{admin}@party.example", number) for number, admin in enumerate(ADMINS)],
            )
            cursor.executemany("INSERT INTO public.settings (key, value) VALUES (%s, %s)", list(SETTINGS.items()))
        connection.execute(OTHERS.encode())
    return True
