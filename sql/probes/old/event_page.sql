-- What every page begins with: the event and its settings.
SELECT own.*, (SELECT jsonb_object_agg(key, value) FROM public.settings) FROM public.event_settings AS own WHERE own.id = 1
