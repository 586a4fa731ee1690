CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS admins_email_key ON party.admins (email);
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_status_idx ON party.events (status);
CREATE INDEX CONCURRENTLY IF NOT EXISTS events_updated_at_idx ON party.events (updated_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS spotify_tokens_expires_at_idx ON party.spotify_tokens (expires_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_event_id_idx ON party.requests (event_id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_status_idx ON party.requests (status);
CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_created_at_idx ON party.requests (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_event_id_status_idx ON party.requests (event_id, status);
CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_status_created_at_idx ON party.requests (status, created_at);
