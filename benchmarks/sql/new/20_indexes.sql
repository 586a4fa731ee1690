CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_event_id_idx ON party.requests (event_id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_status_idx ON party.requests (status);
CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_created_at_idx ON party.requests (created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_event_id_status_idx ON party.requests (event_id, status);
CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_status_created_at_idx ON party.requests (status, created_at);
