-- The one event, its settings, and who runs it. It is there even while event_settings is empty: requests refer to it.
-- The first active admin is chosen as in token.sql. Spotify tokens that no admin can own are kept with the event.
SELECT
    event.id,
    own.id IS NOT NULL AS has_own,
    own.event_title,
    own.dj_name,
    own.venue_info,
    own.welcome_message,
    own.secondary_message,
    own.tertiary_message,
    own.show_qr_code,
    own.display_refresh_interval,
    own.admin_polling_interval,
    own.display_polling_interval,
    own.now_playing_polling_interval,
    own.sse_update_interval,
    own.request_limit,
    own.auto_approve,
    own.force_polling,
    own.requests_page_enabled,
    own.display_page_enabled,
    own.message_text,
    own.message_duration,
    own.message_created_at,
    own.updated_at,
    shared.settings,
    shared.settings_updated_at,
    coalesce(greatest(own.updated_at, shared.latest), '-infinity') AS latest,
    admin.id AS admin_id,
    to_jsonb(orphan) || jsonb_build_object(
        'expires_at', orphan.expires_at::text,
        'updated_at', orphan.updated_at::text
    ) AS orphan_tokens
FROM (VALUES (1)) AS event (id)
LEFT JOIN public.event_settings AS own ON own.id = event.id
CROSS JOIN (
    SELECT
        coalesce(jsonb_object_agg(key, value), '{}') AS settings,
        coalesce(jsonb_object_agg(key, updated_at::text), '{}') AS settings_updated_at,
        max(updated_at) AS latest
    FROM public.settings
) AS shared
LEFT JOIN (
    SELECT id FROM public.admins WHERE is_active ORDER BY created_at NULLS LAST, id COLLATE "C" LIMIT 1
) AS admin ON true
LEFT JOIN public.spotify_auth AS orphan ON admin.id IS NULL
