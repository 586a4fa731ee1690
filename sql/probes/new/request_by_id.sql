SELECT * FROM party.requests WHERE id = (SELECT id FROM party.requests ORDER BY id LIMIT 1)
