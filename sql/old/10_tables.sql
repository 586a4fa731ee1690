-- The old schema. Timestamps have no time zone; they are in UTC.

CREATE TABLE IF NOT EXISTS public.requests (
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
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'approved', 'rejected', 'queued', 'failed', 'played')),
    created_at timestamp DEFAULT timezone('utc', now()),
    approved_at timestamp,
    approved_by text,
    rejection_reason text,
    spotify_added_to_queue boolean DEFAULT false,
    spotify_added_to_playlist boolean DEFAULT false
);

CREATE TABLE IF NOT EXISTS public.settings (
    key text PRIMARY KEY,
    value text NOT NULL,
    updated_at timestamp DEFAULT timezone('utc', now())
);

CREATE TABLE IF NOT EXISTS public.admins (
    id text PRIMARY KEY,
    username text NOT NULL UNIQUE,
    password_hash text NOT NULL,
    created_at timestamp DEFAULT timezone('utc', now()),
    last_login timestamp,
    is_active boolean DEFAULT true
);

CREATE TABLE IF NOT EXISTS public.spotify_auth (
    id integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    access_token text,
    refresh_token text,
    expires_at timestamp,
    scope text,
    token_type text DEFAULT 'Bearer',
    updated_at timestamp DEFAULT timezone('utc', now())
);

CREATE TABLE IF NOT EXISTS public.event_settings (
    id integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    event_title text,
    dj_name text,
    venue_info text,
    welcome_message text,
    secondary_message text,
    tertiary_message text,
    show_qr_code boolean,
    display_refresh_interval integer,
    admin_polling_interval integer,
    display_polling_interval integer,
    now_playing_polling_interval integer,
    sse_update_interval integer,
    request_limit integer,
    auto_approve boolean,
    force_polling boolean,
    requests_page_enabled boolean,
    display_page_enabled boolean,
    message_text text,
    message_duration integer,
    message_created_at timestamp,
    updated_at timestamp DEFAULT timezone('utc', now())
);

CREATE TABLE IF NOT EXISTS public.oauth_sessions (
    state text PRIMARY KEY,
    code_verifier text,
    created_at timestamp DEFAULT timezone('utc', now()),
    expires_at timestamp DEFAULT timezone('utc', now()) + interval '10 minutes'
);

CREATE TABLE IF NOT EXISTS public.notifications (
    id text PRIMARY KEY,
    type text NOT NULL CHECK (type IN ('approval', 'rejection', 'info')),
    message text NOT NULL,
    requester_name text,
    track_name text,
    created_at timestamp DEFAULT timezone('utc', now()),
    shown boolean DEFAULT false
);
