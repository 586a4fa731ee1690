SELECT count(*) FROM party.requests WHERE idempotency_key = 'a guest' AND created_at > now() - interval '1 hour'
