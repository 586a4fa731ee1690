-- For the way back: each event with the Spotify tokens of its active admin, if there are any.
SELECT
    event.id,
    event.legacy,
    token.admin_id,
    token.access_token,
    token.refresh_token,
    token.expires_at,
    token.scope,
    token.token_type,
    token.updated_at
FROM party.events AS event
LEFT JOIN party.spotify_tokens AS token ON token.admin_id = event.active_admin_id
