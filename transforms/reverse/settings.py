"""Old settings: a row for each key under ``settings`` in the event's config."""

import json
from typing import Any

from replicator import Row, as_json
from transforms.party import EVENT_ID, migration, without_zone


@migration.reverse(source="events", into="settings")
def old_settings(new: Row) -> list[dict[str, Any]]:
    """Which keys there were is remembered. The device has a column of its own, and that one counts."""
    if new["id"] != EVENT_ID:
        return []
    config, legacy = as_json(new["config"]), as_json(new["legacy"])
    values = (config.get("settings") or {}) | {"target_device_id": new["device_id"]}
    updated_at = legacy.get("settings") or {}
    return [
        {"key": key, "value": _text(value), "updated_at": updated_at.get(key, without_zone(new["updated_at"]))}
        for key, value in values.items()
        if value is not None
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=float)
