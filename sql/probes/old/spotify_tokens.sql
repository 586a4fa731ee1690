-- Before each call to Spotify.
SELECT access_token, expires_at FROM public.spotify_auth WHERE id = 1
