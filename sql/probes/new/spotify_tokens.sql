SELECT token.access_token, token.expires_at
FROM party.events AS event
JOIN party.spotify_tokens AS token ON token.admin_id = event.active_admin_id
