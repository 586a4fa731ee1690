SELECT id, track_data ->> 'name', track_data #>> '{artists, 0, name}', track_data #>> '{album, images, 0, url}', status
FROM party.requests
ORDER BY created_at DESC
LIMIT 20
