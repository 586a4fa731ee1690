-- The display: what was asked for last.
SELECT id, track_name, artist_name, album_image_url, status
FROM public.requests
ORDER BY created_at DESC NULLS LAST
LIMIT 20
