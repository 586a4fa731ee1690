-- One request, by its key.
SELECT * FROM public.requests WHERE id = (SELECT id FROM public.requests ORDER BY id LIMIT 1)
