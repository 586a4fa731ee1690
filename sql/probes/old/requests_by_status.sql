-- The numbers above the DJ's list.
SELECT status, count(*) FROM public.requests GROUP BY status
