-- The old table, and a function that returns its rows by number; the same ones every time, keys in random order.
CREATE SCHEMA bench;

CREATE TABLE public.requests (
    id text PRIMARY KEY,
    track_uri text NOT NULL,
    track_name text NOT NULL,
    artist_name text NOT NULL,
    album_name text,
    album_image_url text,
    duration_ms integer NOT NULL,
    requester_ip_hash text NOT NULL,
    requester_nickname text,
    user_session_id text,
    status text NOT NULL,
    created_at timestamp,
    approved_at timestamp,
    approved_by text,
    rejection_reason text,
    spotify_added_to_queue boolean,
    spotify_added_to_playlist boolean
);

CREATE FUNCTION bench.id(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT md5('request ' || n)::uuid::text
$$;

CREATE FUNCTION bench.requests(first bigint, last bigint) RETURNS SETOF public.requests LANGUAGE sql AS $$
    SELECT
        bench.id(n),
        'spotify:track:' || md5('track ' || n % 4000),
        (ARRAY['Blue Monday', 'Jóga', '上を向いて歩こう', 'Ça plane pour moi', 'Don’t Stop', '\o/ "100%"'])[n % 6 + 1],
        (ARRAY['New Order', 'Björk', '坂本九', 'Plastic Bertrand', 'Journey'])[n % 5 + 1],
        CASE WHEN n % 7 > 0 THEN 'Album ' || n % 900 END,
        CASE WHEN n % 7 > 1 THEN 'https://i.scdn.example/' || md5('cover ' || n % 900) END,
        (150000 + n % 1000 * 97)::integer,
        md5('guest ' || n % 800),
        CASE WHEN n % 3 > 0 THEN (ARRAY['Ada', 'Çelik', 'Ωμέγα', '👩‍🎤'])[n % 4 + 1] || ' ' || n END,
        CASE WHEN n % 4 > 0 THEN md5('session ' || n % 800) END,
        given.status,
        given.begun + n * interval '337 milliseconds',
        CASE WHEN given.status IN ('approved', 'queued', 'played') THEN given.begun + n * interval '338 milliseconds' END,
        CASE WHEN given.status IN ('approved', 'queued', 'played') THEN 'dj-anna' END,
        CASE WHEN given.status = 'rejected' THEN 'not tonight' END,
        given.status IN ('queued', 'played'),
        CASE WHEN n % 11 > 0 THEN given.status = 'played' END
    FROM generate_series(first, last) AS n
    CROSS JOIN LATERAL (
        SELECT
            (ARRAY['pending', 'played', 'approved', 'played', 'rejected', 'queued', 'failed', 'played'])[n % 8 + 1]
                AS status,
            timestamp '2024-05-04 18:00:00' AS begun
    ) AS given
$$;

CREATE PROCEDURE bench.insert(first bigint, last bigint, in_transaction bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN first .. last BY in_transaction LOOP
        INSERT INTO public.requests SELECT * FROM bench.requests(n, least(last, n + in_transaction - 1));
        COMMIT;
    END LOOP;
END
$$;

CREATE PROCEDURE bench.update(changes bigint, hot_rows bigint, round bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. changes LOOP
        UPDATE public.requests SET duration_ms = n, rejection_reason = 'round ' || round
        WHERE id = bench.id(1 + n * 7919 % hot_rows);
        COMMIT;
    END LOOP;
END
$$;

CREATE SEQUENCE bench.serial;
