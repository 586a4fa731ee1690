-- The device is the one that the settings name.
SELECT id FROM party.events
WHERE device_id IS DISTINCT FROM config -> 'settings' ->> 'target_device_id'
