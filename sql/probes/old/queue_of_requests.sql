-- The DJ's list: what waits, oldest first.
SELECT id, track_name, artist_name, requester_nickname, created_at
FROM public.requests
WHERE status = 'pending'
ORDER BY created_at
LIMIT 50
