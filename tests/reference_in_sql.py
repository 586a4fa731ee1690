"""The reference migration with all of its transforms in SQL, under the names that they have in Python."""

from pathlib import Path
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from replicator import Migration
from transforms import events, spotify_tokens
from transforms.events import CONFIG
from transforms.party import EVENT_ID
from transforms.reverse import spotify_auth

ROOT = Path(__file__).parents[1]

# The namespace is that of the Python transforms; uuid-ossp declares its function IMMUTABLE.
FUNCTIONS: Final = f"""
CREATE SCHEMA IF NOT EXISTS twin;
CREATE EXTENSION IF NOT EXISTS "uuid-ossp" SCHEMA twin;
CREATE OR REPLACE FUNCTION twin.new_id(of text, old text) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN old ~ '^[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}$' THEN old::uuid
        ELSE twin.uuid_generate_v5('{uuid5(NAMESPACE_URL, "replicator:party")}'::uuid, of || '/' || old) END
$$;
"""

ADMIN: Final = """
SELECT twin.new_id('admins', old.id) AS id, old.username AS email, old.password_hash, old.username AS name,
    coalesce(old.is_active, false) AS is_active, old.last_login AT TIME ZONE 'UTC' AS last_login,
    coalesce(old.created_at AT TIME ZONE 'UTC', '-infinity') AS created_at,
    jsonb_build_object('id', old.id, 'is_active', old.is_active, 'created_at', old.created_at::text) AS legacy
"""
REQUEST: Final = (
    (ROOT / "benchmarks" / "sql" / "requests.sql")
    .read_text()
    .replace("old.id::uuid AS id", "twin.new_id('requests', old.id) AS id")
)
_CONFIG: Final = ", ".join(f"'{name}', old.{name}{'::text' if name == 'message_created_at' else ''}" for name in CONFIG)
EVENT: Final = f"""
SELECT '{EVENT_ID}'::uuid AS id,
    CASE WHEN old.requests_page_enabled AND old.display_page_enabled THEN 'live'
        WHEN NOT old.requests_page_enabled AND NOT old.display_page_enabled THEN 'offline' ELSE 'standby' END AS status,
    0 AS version, twin.new_id('admins', old.admin_id) AS active_admin_id,
    old.settings ->> 'target_device_id' AS device_id,
    jsonb_build_object({_CONFIG}, 'pages_enabled', jsonb_build_object('requests', old.requests_page_enabled,
        'display', old.display_page_enabled), 'settings', old.settings) AS config,
    old.latest AT TIME ZONE 'UTC' AS updated_at,
    jsonb_build_object('event_settings', CASE WHEN old.has_own THEN
        jsonb_build_object('updated_at', old.updated_at::text) END,
        'settings', old.settings_updated_at, 'spotify_auth', old.orphan_tokens) AS legacy
"""
TOKEN: Final = """
SELECT twin.new_id('admins', old.admin_id) AS admin_id, old.access_token, old.refresh_token,
    old.expires_at AT TIME ZONE 'UTC' AS expires_at, old.scope, old.token_type,
    coalesce(old.updated_at AT TIME ZONE 'UTC', '-infinity') AS updated_at
"""

_CREATED_AT: Final = """
    CASE WHEN old.legacy ? 'created_at' AND old.created_at = coalesce(
            (old.legacy ->> 'created_at')::timestamp AT TIME ZONE 'UTC', '-infinity')
        THEN (old.legacy ->> 'created_at')::timestamp ELSE old.created_at AT TIME ZONE 'UTC' END AS created_at
"""
OLD_ADMIN: Final = f"""
SELECT CASE WHEN twin.new_id('admins', old.legacy ->> 'id') = old.id THEN old.legacy ->> 'id'
        ELSE old.id::text END AS id,
    old.email AS username, old.password_hash, {_CREATED_AT}, old.last_login AT TIME ZONE 'UTC' AS last_login,
    CASE WHEN old.legacy ? 'is_active' AND coalesce((old.legacy ->> 'is_active')::boolean, false) = old.is_active
        THEN (old.legacy ->> 'is_active')::boolean ELSE old.is_active END AS is_active
"""
OLD_REQUEST: Final = f"""
SELECT CASE WHEN twin.new_id('requests', old.legacy ->> 'id') = old.id THEN old.legacy ->> 'id'
        ELSE old.id::text END AS id,
    coalesce(nullif(old.track_data ->> 'uri', ''), old.track_id) AS track_uri,
    coalesce(old.track_data ->> 'name', '') AS track_name,
    coalesce((SELECT string_agg(coalesce(a.value ->> 'name', ''), ', ' ORDER BY a.ordinality)
        FROM jsonb_array_elements(old.track_data -> 'artists') WITH ORDINALITY AS a), '') AS artist_name,
    old.track_data -> 'album' ->> 'name' AS album_name,
    old.track_data -> 'album' -> 'images' -> 0 ->> 'url' AS album_image_url,
    coalesce((old.track_data ->> 'duration_ms')::integer, 0) AS duration_ms,
    coalesce(old.idempotency_key, '') AS requester_ip_hash,
    CASE WHEN old.legacy ? 'requester_nickname'
            AND coalesce(nullif(old.legacy ->> 'requester_nickname', ''), 'Anonymous') = old.submitted_by
        THEN old.legacy ->> 'requester_nickname' ELSE nullif(old.submitted_by, 'Anonymous') END AS requester_nickname,
    old.legacy ->> 'user_session_id' AS user_session_id,
    CASE WHEN CASE old.legacy ->> 'status' WHEN 'queued' THEN 'approved' WHEN 'failed' THEN 'rejected'
            ELSE old.legacy ->> 'status' END = old.status THEN old.legacy ->> 'status' ELSE old.status END AS status,
    {_CREATED_AT}, old.approved_at AT TIME ZONE 'UTC' AS approved_at, old.legacy ->> 'approved_by' AS approved_by,
    old.legacy ->> 'rejection_reason' AS rejection_reason,
    CASE WHEN old.legacy ? 'spotify_added_to_queue' THEN (old.legacy ->> 'spotify_added_to_queue')::boolean
        ELSE false END AS spotify_added_to_queue,
    CASE WHEN old.legacy ? 'spotify_added_to_playlist' THEN (old.legacy ->> 'spotify_added_to_playlist')::boolean
        ELSE false END AS spotify_added_to_playlist
"""
_TYPES: Final = {
    **dict.fromkeys(("show_qr_code", "auto_approve", "force_polling"), "boolean"),
    **dict.fromkeys(CONFIG[7:13], "integer"),
    "message_duration": "integer",
    "message_created_at": "timestamp",
}
_COLUMNS: Final = ", ".join(f"(old.config ->> '{name}')::{_TYPES.get(name, 'text')} AS {name}" for name in CONFIG)
OLD_EVENT_SETTINGS: Final = f"""
SELECT 1 AS id, c.*, coalesce((old.legacy #>> '{{event_settings,updated_at}}')::timestamp,
    CASE WHEN coalesce(jsonb_typeof(old.legacy -> 'event_settings'), 'null') = 'null'
        THEN old.updated_at AT TIME ZONE 'UTC' END) AS updated_at
FROM (
    SELECT {_COLUMNS},
        CASE WHEN p.status = old.status THEN p.requests ELSE old.status = 'live' END AS requests_page_enabled,
        CASE WHEN p.status = old.status THEN p.display ELSE old.status <> 'offline' END AS display_page_enabled
    FROM (
        SELECT s.requests, s.display, CASE WHEN s.requests AND s.display THEN 'live'
            WHEN NOT s.requests AND NOT s.display THEN 'offline' ELSE 'standby' END AS status
        FROM (SELECT (old.config #>> '{{pages_enabled,requests}}')::boolean AS requests,
            (old.config #>> '{{pages_enabled,display}}')::boolean AS display) AS s
    ) AS p
) AS c
WHERE old.id = '{EVENT_ID}' AND NOT (
    coalesce(jsonb_typeof(old.legacy -> 'event_settings'), 'null') = 'null' AND c IS NULL
)
"""
OLD_SETTINGS: Final = f"""
SELECT e.key, e.value #>> '{{}}' AS value, CASE WHEN old.legacy -> 'settings' ? e.key
    THEN (old.legacy -> 'settings' ->> e.key)::timestamp ELSE old.updated_at AT TIME ZONE 'UTC' END AS updated_at
FROM jsonb_each(coalesce(nullif(old.config -> 'settings', 'null'), '{{}}')
    || jsonb_build_object('target_device_id', old.device_id)) AS e
WHERE old.id = '{EVENT_ID}' AND e.value <> 'null'
"""
OLD_SPOTIFY_AUTH: Final = f"""
SELECT 1 AS id, old.access_token, old.refresh_token, old.expires_at AT TIME ZONE 'UTC' AS expires_at, old.scope,
    old.token_type, nullif(old.updated_at, '-infinity') AT TIME ZONE 'UTC' AS updated_at
WHERE old.id = '{EVENT_ID}' AND old.admin_id IS NOT NULL
UNION ALL
SELECT (o.value ->> 'id')::integer, o.value ->> 'access_token', o.value ->> 'refresh_token',
    (o.value ->> 'expires_at')::timestamp, o.value ->> 'scope', o.value ->> 'token_type',
    (o.value ->> 'updated_at')::timestamp
FROM (SELECT old.legacy -> 'spotify_auth') AS o(value)
WHERE old.id = '{EVENT_ID}' AND old.admin_id IS NULL AND o.value <> 'null'
"""

OLD_EVENT_KEY: Final = f"CASE WHEN old.id = '{EVENT_ID}' THEN 1 ELSE 0 END"


def reference_in_sql() -> Migration:
    """Its functions are in the schema ``twin``, which ``FUNCTIONS`` makes."""
    made = Migration("party", old="public", new="party", sql=ROOT / "sql")
    there, back = made.sql_transform, made.sql_reverse
    there(source="admins", into="admins", sql=ADMIN, key="twin.new_id('admins', old.id)", name="admin")
    there(source="requests", into="requests", sql=REQUEST, key="twin.new_id('requests', old.id)", name="request")
    there(source=events.SOURCE, into="events", sql=EVENT, key=f"'{EVENT_ID}'::uuid", name="event")
    there(source=spotify_tokens.SOURCE, into="spotify_tokens", sql=TOKEN, name="spotify_token")
    back(source="admins", into="admins", sql=OLD_ADMIN, name="old_admin")
    back(source="requests", into="requests", sql=OLD_REQUEST, name="old_request")
    back(source="events", into="event_settings", sql=OLD_EVENT_SETTINGS, key=OLD_EVENT_KEY, name="old_event_settings")
    back(source="events", into="settings", sql=OLD_SETTINGS, name="old_settings")
    back(source=spotify_auth.SOURCE, into="spotify_auth", sql=OLD_SPOTIFY_AUTH, key=OLD_EVENT_KEY,
         name="old_spotify_auth")  # fmt: skip
    made.retire("oauth_sessions", because="as in Python")
    made.retire("notifications", because="as in Python")
    return made
