SELECT id, status, device_id, config, updated_at FROM party.events
