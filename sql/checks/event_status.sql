-- An event is live when both pages are enabled, offline when both are disabled, else on standby.
SELECT id, status FROM party.events
WHERE status <> CASE config -> 'pages_enabled'
    WHEN '{"requests": true, "display": true}' THEN 'live'
    WHEN '{"requests": false, "display": false}' THEN 'offline'
    ELSE 'standby'
END
