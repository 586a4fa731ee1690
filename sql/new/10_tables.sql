-- The new schema, with what must hold from the first row on: primary keys, NOT NULLs and CHECKs. Indexes and foreign
-- keys come when the tables are filled. What the old schema knew and the new one has no column for is in "legacy".

CREATE SCHEMA IF NOT EXISTS party;

CREATE TABLE IF NOT EXISTS party.admins (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text NOT NULL,
    password_hash text NOT NULL,
    name text,
    is_active boolean NOT NULL DEFAULT true,
    last_login timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    legacy jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE IF NOT EXISTS party.events (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    status text NOT NULL CHECK (status IN ('offline', 'standby', 'live')),
    version integer NOT NULL DEFAULT 0 CHECK (version >= 0),
    active_admin_id uuid,
    device_id text,
    config jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now(),
    legacy jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE IF NOT EXISTS party.spotify_tokens (
    admin_id uuid PRIMARY KEY,
    access_token text,
    refresh_token text,
    expires_at timestamptz,
    scope text,
    token_type text,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS party.requests (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    event_id uuid NOT NULL,
    track_id text NOT NULL,
    track_data jsonb NOT NULL,
    submitted_by text,
    status text NOT NULL CHECK (status IN ('pending', 'approved', 'rejected', 'played')),
    idempotency_key text,
    created_at timestamptz NOT NULL DEFAULT now(),
    approved_at timestamptz,
    rejected_at timestamptz,
    played_at timestamptz,
    legacy jsonb NOT NULL DEFAULT '{}'
);
