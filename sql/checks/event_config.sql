-- The new application may rely on every key of an event's config, and on settings being texts.
SELECT id FROM party.events
WHERE NOT config ?& ARRAY[
        'event_title', 'dj_name', 'venue_info', 'welcome_message', 'secondary_message', 'tertiary_message',
        'show_qr_code', 'display_refresh_interval', 'admin_polling_interval', 'display_polling_interval',
        'now_playing_polling_interval', 'sse_update_interval', 'request_limit', 'auto_approve', 'force_polling',
        'message_text', 'message_duration', 'message_created_at', 'pages_enabled', 'settings'
    ]
    OR NOT config -> 'pages_enabled' ?& ARRAY['requests', 'display']
    OR jsonb_typeof(config -> 'settings') <> 'object'
    OR jsonb_path_exists(config, '$.settings.* ? (@.type() != "string")')
