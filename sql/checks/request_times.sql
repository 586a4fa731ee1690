-- A rejected request, and no other, has the time of its rejection; only a played one has the time when it was played.
SELECT id, status FROM party.requests
WHERE (status = 'rejected') <> (rejected_at IS NOT NULL)
    OR (status <> 'played' AND played_at IS NOT NULL)
    OR (status = 'played' AND played_at IS DISTINCT FROM approved_at)
