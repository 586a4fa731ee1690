-- The Spotify tokens and the admin whose they become: the first active one, chosen as in event.sql. No admin, no row.
SELECT
    auth.id,
    admin.id AS admin_id,
    auth.access_token,
    auth.refresh_token,
    auth.expires_at,
    auth.scope,
    auth.token_type,
    auth.updated_at
FROM public.spotify_auth AS auth
CROSS JOIN (
    SELECT id FROM public.admins WHERE is_active ORDER BY created_at NULLS LAST, id COLLATE "C" LIMIT 1
) AS admin
