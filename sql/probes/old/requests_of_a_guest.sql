-- Whether a guest has asked too often within the hour.
SELECT count(*)
FROM public.requests
WHERE requester_ip_hash = 'a guest' AND created_at > timezone('utc', now()) - interval '1 hour'
