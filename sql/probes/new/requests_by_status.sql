SELECT status, count(*) FROM party.requests GROUP BY status
