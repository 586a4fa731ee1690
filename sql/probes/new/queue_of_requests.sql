SELECT id, track_data ->> 'name', track_data #>> '{artists, 0, name}', submitted_by, created_at
FROM party.requests
WHERE status = 'pending'
ORDER BY created_at
LIMIT 50
