ALTER TABLE party.events ADD CONSTRAINT events_active_admin_id_fkey
    FOREIGN KEY (active_admin_id) REFERENCES party.admins (id) DEFERRABLE INITIALLY IMMEDIATE NOT VALID;
ALTER TABLE party.spotify_tokens ADD CONSTRAINT spotify_tokens_admin_id_fkey
    FOREIGN KEY (admin_id) REFERENCES party.admins (id) ON DELETE CASCADE DEFERRABLE INITIALLY IMMEDIATE NOT VALID;
ALTER TABLE party.requests ADD CONSTRAINT requests_event_id_fkey
    FOREIGN KEY (event_id) REFERENCES party.events (id) ON DELETE CASCADE DEFERRABLE INITIALLY IMMEDIATE NOT VALID;

ALTER TABLE party.events VALIDATE CONSTRAINT events_active_admin_id_fkey;
ALTER TABLE party.spotify_tokens VALIDATE CONSTRAINT spotify_tokens_admin_id_fkey;
ALTER TABLE party.requests VALIDATE CONSTRAINT requests_event_id_fkey;
