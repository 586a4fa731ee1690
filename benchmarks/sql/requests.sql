-- What the reference migration's Python transform makes of a request, in SQL. The peers of the backfill and of
-- verification run it, and the SQL transform is this very text. All ids of the benchmark are UUIDs.
SELECT
    old.id::uuid AS id,
    'bec2af35-0bf8-553c-9b10-cd0a9d637f10'::uuid AS event_id,
    old.track_uri AS track_id,
    jsonb_build_object(
        'id', old.track_uri,
        'uri', old.track_uri,
        'name', old.track_name,
        'artists', jsonb_build_array(jsonb_build_object('name', old.artist_name)),
        'album', jsonb_build_object(
            'name', old.album_name,
            'images', CASE
                WHEN old.album_image_url IS NULL THEN '[]'::jsonb
                ELSE jsonb_build_array(jsonb_build_object('url', old.album_image_url))
            END
        ),
        'duration_ms', old.duration_ms
    ) AS track_data,
    coalesce(nullif(old.requester_nickname, ''), 'Anonymous') AS submitted_by,
    CASE old.status WHEN 'queued' THEN 'approved' WHEN 'failed' THEN 'rejected' ELSE old.status END AS status,
    old.requester_ip_hash AS idempotency_key,
    coalesce(timezone('UTC', old.created_at), '-infinity'::timestamptz) AS created_at,
    timezone('UTC', old.approved_at) AS approved_at,
    CASE
        WHEN old.status IN ('rejected', 'failed') THEN coalesce(timezone('UTC', old.created_at), '-infinity'::timestamptz)
    END AS rejected_at,
    CASE WHEN old.status = 'played' THEN timezone('UTC', old.approved_at) END AS played_at,
    jsonb_build_object(
        'id', old.id,
        'status', old.status,
        'created_at', old.created_at::text,
        'requester_nickname', old.requester_nickname,
        'user_session_id', old.user_session_id,
        'approved_by', old.approved_by,
        'rejection_reason', old.rejection_reason,
        'spotify_added_to_queue', old.spotify_added_to_queue,
        'spotify_added_to_playlist', old.spotify_added_to_playlist
    ) AS legacy
