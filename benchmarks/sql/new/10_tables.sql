-- The new requests of the reference migration, without the tables beside it.

CREATE SCHEMA IF NOT EXISTS party;

CREATE TABLE IF NOT EXISTS party.requests (
    id uuid PRIMARY KEY,
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
